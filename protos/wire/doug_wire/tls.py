"""How the ends of a connection prove to each other who they are: certificates, mutual TLS, and where plaintext may be.

Nodes and facades use one certificate both as servers and as clients. A server takes only clients whose certificate the
authority has signed; a client takes only a server whose certificate carries the name that it dialled. Must not know
what is said over a connection.

Invariants:
    1. What is used is always a key that fits its certificate, and a readable authority: files that are being replaced,
       or that are damaged, leave what was read before in use.
    2. New files count for new connections. Those that are open stay open.
    3. Plaintext leaves the machine only where it was asked for by name.

Source: docs/operations.md, Certificates.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from base64 import b64decode
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio

from doug_stream.client import ALPN, offer_alpn
from doug_wire.greetings import ServerContext

NAME_OPTION = "grpc.ssl_target_name_override"

Tell = Callable[..., object]
"""A logger's method: an event and its fields."""


class TlsError(Exception):
    """The certificates cannot be used; the message says which file and why."""


class PlaintextError(Exception):
    """Plaintext would leave the machine, and the settings do not allow it."""


class Files(NamedTuple):
    """The paths of the PEM files: the own certificate with its chain, its key, and the authority.

    ``client_ca`` is the authority of clients that come over HTTPS. It is never that of nodes and facades: who
    has a certificate of theirs may speak Raft.
    """

    certificate: Path
    key: Path
    ca: Path
    client_ca: Path | None = None


class _Read(NamedTuple):
    """The content of the files at one moment."""

    certificate: bytes
    key: bytes
    ca: bytes
    client_ca: bytes = b""


class _Stamp(NamedTuple):
    """The marks by which a change of the files is noticed. A link that points elsewhere, as in Kubernetes, counts."""

    files: tuple[tuple[int, int, int], ...]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_plaintext(mode: str, hosts: Iterable[str]) -> list[str]:
    """The hosts beyond this machine, if plaintext to them was asked for.

    Args:
        mode: The mode in the settings: ``disabled``, ``mutual``, or empty.
        hosts: The hosts at which this process listens, and those to which it speaks.

    Raises:
        PlaintextError: There are such hosts, and plaintext was not asked for.
    """
    beyond = sorted({host for host in hosts if not is_loopback(host)})
    if mode == "" and beyond:
        raise PlaintextError(
            f"{', '.join(beyond)}: plaintext would leave this machine. Set DOUGDB_TLS_MODE to mutual, with "
            "DOUGDB_TLS_CERT_FILE, DOUGDB_TLS_KEY_FILE and DOUGDB_TLS_CA_FILE, or to disabled if the network is trusted"
        )
    return beyond if mode == "disabled" else []


class Certificates:
    """A certificate, its key and an authority, kept up to date with their files.

    Attributes:
        version: A number that grows with every change of the files that was taken over.
        expires: When the certificate ends.
    """

    def __init__(self, files: Files) -> None:
        """Reads the files.

        Raises:
            TlsError: The files cannot be used.
        """
        self._files = files
        self._stamp = self._look()
        self._read, self._context, self._stream, self._dialling = self._load()
        self.version = 1
        self.expires = not_after(self._read.certificate)
        self._front = _server_context()
        # A context cannot be given another key while it is used; so each new connection is handed the newest one.
        self._front.sni_callback = self._hand_on
        self._front.load_cert_chain(files.certificate, files.key)

    def expires_s(self) -> float:
        """When the certificate ends, in seconds since the epoch."""
        return self.expires.timestamp()

    # For servers.

    def server_credentials(self) -> grpc.ServerCredentials:
        """The credentials of a gRPC port that takes only clients with a certificate of the authority."""
        known = self.version

        def configuration() -> grpc.ServerCertificateConfiguration:
            read = self._read
            return grpc.ssl_server_certificate_configuration([(read.key, read.certificate)], read.ca)

        def newer() -> grpc.ServerCertificateConfiguration | None:
            # gRPC asks before every handshake, on threads of its own.
            nonlocal known
            if known == self.version:
                return None
            known = self.version
            return configuration()

        # The stubs do not know that None means: the same as before.
        return grpc.dynamic_ssl_server_credentials(
            configuration(),
            newer,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    def https_context(self) -> ssl.SSLContext:
        """The context of an HTTPS port that asks no client for a certificate."""
        return self._front

    def client_context(self) -> ssl.SSLContext:
        """The context of an HTTPS port for clients with a certificate of their authority, and for clients without one.

        A new authority counts for new connections, as a new certificate does. Requires: ``client_ca`` is a file.
        """
        assert self._read.client_ca, "clients have an authority of their own"
        self._front.verify_mode = ssl.CERT_OPTIONAL
        # This context requests the certificate; the context to which the connection is passed on verifies it.
        self._front.load_verify_locations(cadata=self._read.client_ca.decode("ascii"))
        return self._front

    def stream_context(self) -> ssl.SSLContext:
        """The context of a port of the own streams, which takes only clients with a certificate of the authority.

        New connections each get the newest one.
        """
        return self._stream

    def _hand_on(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._context

    # For clients.

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """The credentials of a channel, which keeps them for its life: a newer ``version`` needs a new channel."""
        read = self._read
        return grpc.ssl_channel_credentials(read.ca, read.key, read.certificate)

    def dialling_context(self) -> ssl.SSLContext:
        """The context of an own stream, which takes only a server whose certificate has the dialled name."""
        return self._dialling

    # The files.

    def refresh(self) -> bool:
        """Takes new files over, if there are any; returns whether there were.

        Raises:
            TlsError: The new files cannot be used. The old ones stay in use.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        read, context, stream, dialling = self._load()
        if self._look() != stamp:
            return False  # They are being replaced right now; the next check reads them.
        changed = read != self._read
        self._stamp, self._read = stamp, read
        self._context, self._stream, self._dialling = context, stream, dialling
        if changed:
            self.expires = not_after(read.certificate)
            self.version += 1
        return changed

    async def watch(self, every_s: float, tell: Tell, warn: Tell) -> None:
        """Looks at the files again and again, until cancelled.

        Args:
            every_s: The seconds between two looks.
            tell: Is told of new certificates.
            warn: Is told, once, of files that cannot be used.
        """
        problem = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                if self.refresh():
                    tell("tls.reloaded", certificate=str(self._files.certificate), expires=self.expires.isoformat())
                problem = ""
            except TlsError as error:
                if str(error) != problem:
                    problem = str(error)
                    warn("tls.not_reloaded", reason=problem)

    def _look(self) -> _Stamp:
        try:
            found = [path.stat() for path in self._files if path is not None]
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from error
        return _Stamp(tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found))

    def _load(self) -> tuple[_Read, ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
        files = self._files
        try:
            read = _Read(
                files.certificate.read_bytes(),
                files.key.read_bytes(),
                files.ca.read_bytes(),
                files.client_ca.read_bytes() if files.client_ca is not None else b"",
            )
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from error
        context = _server_context()
        stream, dialling = _server_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stream.verify_mode = ssl.CERT_REQUIRED
        # Nodes and facades show certificates such as this one: with the names of all shards it may be long.
        stream.greeting_bytes_max += 2 * len(read.certificate)
        stream.set_alpn_protocols([ALPN])
        dialling.minimum_version = ssl.TLSVersion.TLSv1_2
        offer_alpn(dialling)
        try:
            for each in (context, stream, dialling):
                each.load_cert_chain(files.certificate, files.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"{files.certificate} and {files.key} are no certificate with its key: {error}") from error
        try:
            for each in (stream, dialling):
                each.load_verify_locations(cadata=read.ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise TlsError(f"{files.ca} holds no certificate: {error}") from error
        if files.client_ca is not None:
            # OpenSSL follows the settings of the front, but gives the certificate only if this context requires it,
            # too.
            context.verify_mode = ssl.CERT_OPTIONAL
            try:
                context.load_verify_locations(cadata=read.client_ca.decode("ascii"))
            except (ssl.SSLError, UnicodeDecodeError) as error:
                raise TlsError(f"{files.client_ca} holds no certificate: {error}") from error
            # One of several is enough: who signs clients could sign a facade.
            if not set(context.get_ca_certs(binary_form=True)).isdisjoint(stream.get_ca_certs(binary_form=True)):
                raise TlsError(f"{files.client_ca} is the authority of nodes and facades: clients need another one")
        not_after(read.certificate)
        return read, context, stream, dialling


def _server_context() -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def not_after(pem: bytes) -> datetime:
    """When the first certificate of a PEM file ends.

    Raises:
        TlsError: The file holds no certificate.
    """
    try:
        tag, text = _children(_fields(pem)[_VALIDITY][1])[1]
        form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
        return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    except (IndexError, ValueError) as error:
        raise TlsError(f"not a certificate in PEM: {error}") from error


def common_names(pem: bytes) -> list[str]:
    """The common names of the subject of the first certificate of a PEM file, in their order.

    Raises:
        TlsError: The file holds no certificate, or a common name is in an alphabet of the last century.
    """
    try:
        # The subject is a sequence of sets of pairs of a type and a value (RFC 5280, 4.1.2.4).
        sets = (_children(each) for _, each in _children(_fields(pem)[_SUBJECT][1]))
        pairs = [_children(pair) for each in sets for _, pair in each]
        named = [value for (_, kind), value in pairs if kind == _COMMON_NAME]
        if not all(tag in _TEXTS for tag, _ in named):
            raise TlsError("a common name that is neither ASCII nor UTF-8")
        return [text.decode(_TEXTS[tag]) for tag, text in named]
    except (IndexError, ValueError) as error:
        raise TlsError(f"not a certificate in PEM: {error}") from error


_VALIDITY, _SUBJECT = 3, 4
"""The places of fields behind the serial number, the algorithm and the issuer (RFC 5280, 4.1)."""
_COMMON_NAME = bytes.fromhex("550403")
_TEXTS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii"}


def _fields(pem: bytes) -> list[tuple[int, bytes]]:
    """The fields of the first certificate of a PEM file, but for its version, which is optional and tagged."""
    body = pem.split(b"-----BEGIN CERTIFICATE-----", 1)[1].split(b"-----END CERTIFICATE-----", 1)[0]
    fields = _children(_children(_children(b64decode(body))[0][1])[0][1])
    return fields[1:] if fields[0][0] == 0xA0 else fields


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """The values of a DER sequence: tag and content of each."""
    found = []
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            end = at + (size & 0x7F)
            size, at = int.from_bytes(data[at:end], "big"), end
        if at + size > len(data):
            raise ValueError("it is cut off")
        found.append((tag, data[at : at + size]))
        at += size
    return found


def open_channel(
    certificates: Certificates | None, address: str, options: Iterable[tuple[str, int | str]], name: str = ""
) -> grpc.aio.Channel:
    """A channel to ``host:port``: TLS with certificates, plaintext without.

    Args:
        certificates: The certificate of this end, and the authority that signs the other end's; None for plaintext.
        address: The host and port to dial.
        options: gRPC's options.
        name: The name that the other end's certificate must carry, if it is not the host of the address.
    """
    options = list(options)
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=options)
    if name:
        options.append((NAME_OPTION, name))
    return grpc.aio.secure_channel(address, certificates.channel_credentials(), options=options)


def add_port(certificates: Certificates | None, server: grpc.aio.Server, address: str) -> int:
    """Has a server listen: with mutual TLS with certificates, in plaintext without.

    Raises:
        RuntimeError: The port is taken.
    """
    if certificates is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, certificates.server_credentials())
