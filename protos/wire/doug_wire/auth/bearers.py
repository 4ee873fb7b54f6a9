"""Bearer tokens that others issue: JWTs of an OpenID provider, and of Kubernetes for its service accounts.

A JWT counts if a key of the issuer's set has signed it, by an algorithm of public keys, and if it names the issuer, the
audience, and an end that lies ahead. Facades and nodes ask here. It needs the extra ``jwt`` of the package, and is
imported only where JWTs are a proof. Must not know what a principal may do. Invariants:

1. The algorithm is that of the key, never what the token says alone; ``none`` and shared secrets are none here.
2. A key that leaves the set counts no more once the set was read anew; a set that cannot be read leaves the old one.
3. Whatever the issuer's server does, reading the set ends in time, and never by an error.

Source: RFC 7519; RFC 8725 (best practices); OpenID Connect Core 1.0, 3.1.3.7.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import jwt

from doug_wire.auth.document import GROUP, SUBJECT, DocumentError, check_principal
from doug_wire.auth.issuer import Issuer, is_https

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
TOKEN_CHARACTERS_MAX = 16 << 10
SET_BYTES_MAX = 1 << 20
KEYS_OF_AN_ID_MAX = 4
GROUPS_MAX = 256
READ_EVERY_S = 60.0
READ_AGAIN_S = 5.0
READ_TIMEOUT_S = 5.0
"""How long the connection to the issuer's server may be silent."""
READ_ALL_S = 10.0
"""How long reading the issuer's keys may take in all."""
LEEWAY_S = 30
TIME_MAX = 1 << 53


class Log(Protocol):
    """The log, which is told of the issuer's keys."""

    def info(self, event: str, **fields: Any) -> object:
        """Takes a line."""

    def error(self, event: str, **fields: Any) -> object:
        """Takes a line about what somebody should look after."""


_FAULTS = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What the library raises at a JWT that does not count."""


class BearerError(Exception):
    """A JWT does not count. The message says why, and holds nothing of the token."""


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "its time has not come"),
    (jwt.InvalidAudienceError, "it is meant for another audience"),
    (jwt.InvalidIssuerError, "another issuer has made it"),
    (jwt.MissingRequiredClaimError, "a claim is missing: exp, iss, aud, or the one that names the principal"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
)


def _reason(error: Exception) -> str:
    """Why a JWT does not count: never in the library's words, which may repeat what the JWT says."""
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "its content is not that of a JWT")


class Bearer(NamedTuple):
    """The owner of a JWT.

    Attributes:
        name: The principal's name.
        principals: The names of the principal and of its groups.
        expires_s: When the JWT ends, in seconds since the epoch.
        mark: The mark of the key that has signed the JWT: see ``Key``.
    """

    name: str
    principals: tuple[str, ...]
    expires_s: float
    mark: str = ""


class Key(NamedTuple):
    """A key of the issuer.

    Attributes:
        key: The key itself.
        mark: The hash of what the issuer's set says of the key; it tells the key from all others.
    """

    key: jwt.PyJWK
    mark: str


class Bearers:
    """Judges JWTs by the issuer's keys.

    Attributes:
        on_change: Called when the issuer's keys have changed.
    """

    def __init__(self, issuer: Issuer, log: Log, clock: Callable[[], float] = time.time) -> None:
        """Reads no keys before ``read``.

        Args:
            issuer: Whose tokens count, in which nothing is wrong.
            log: The log.
            clock: Gives seconds since the epoch.
        """
        self._issuer = issuer
        self._log = log
        self._clock = clock
        self._keys: dict[str, tuple[Key, ...]] = {}
        self._raw = b""
        self._read_s = float("-inf")
        self._reading: asyncio.Future[bytes] | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._wanted = asyncio.Event()

    def judge(self, text: str) -> Bearer:
        """Checks a JWT, and returns its owner.

        Raises:
            BearerError: The JWT does not count.
        """
        if len(text) > TOKEN_CHARACTERS_MAX:
            raise BearerError("the token is too long")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BearerError("it is no JWT") from None
        found = self._keys.get(str(header.get("kid", "")), ())
        if not found:
            self._wanted.set()
            raise BearerError("no key of the issuer has signed it")
        fitting = [each for each in found if header.get("alg") == each.key.algorithm_name in ALGORITHMS]
        if not fitting:
            raise BearerError("it is signed by another algorithm than its key's")
        refused: Exception = jwt.InvalidSignatureError()
        for each in fitting:
            try:
                return self._bearer(self._claims(text, each.key), each.mark)
            except jwt.InvalidSignatureError as error:
                refused = error
            except _FAULTS as error:
                raise BearerError(_reason(error)) from None
        # An issuer that names no keys may have a new one, which shows in nothing else.
        self._wanted.set()
        raise BearerError(_reason(refused))

    def _claims(self, text: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        """What a JWT says that this key has signed; raises one of ``_FAULTS`` otherwise."""
        claims: Mapping[str, Any] = jwt.decode(
            text,
            key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer.name,
            audience=self._issuer.audience,
            leeway=LEEWAY_S,
            options={
                "require": ["exp", "iss", "aud", self._issuer.claim],
                "verify_sub": self._issuer.claim == "sub",
            },
        )
        return claims

    def counts(self, mark: str) -> bool:
        """Whether the key with this mark is still in the issuer's set."""
        return any(key.mark == mark for keys in self._keys.values() for key in keys)

    def _bearer(self, claims: Mapping[str, Any], mark: str) -> Bearer:
        name = f"{SUBJECT}:{claims[self._issuer.claim]}"
        groups, expires = claims.get(self._issuer.groups_claim, []), claims["exp"]
        if type(expires) not in (int, float) or not 0 <= expires < TIME_MAX:
            raise BearerError("its end is no time")
        if not isinstance(claims[self._issuer.claim], str):
            raise BearerError("its principal is no text")
        if not isinstance(groups, list) or len(groups) > GROUPS_MAX:
            raise BearerError("its groups are no list, or too many")
        if not _is_principal(name):
            raise BearerError("its principal is no name")
        # To a group without a name nobody can give a role, so it says nothing of the bearer.
        named = [f"{GROUP}:{group}" for group in groups if isinstance(group, str)]
        principals = (name, *filter(_is_principal, named))
        return Bearer(name, principals, float(expires) + LEEWAY_S, mark)

    # The issuer's keys.

    async def run(self) -> None:
        """Keeps the issuer's keys new; ends only by cancellation."""
        await self.read()
        while True:
            try:
                async with asyncio.timeout(READ_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            wait_s = self._read_s + READ_AGAIN_S - self._clock()
            if wait_s > 0:
                # Invented key ids must not make us ask the issuer all the time.
                await asyncio.sleep(wait_s)
            self._wanted.clear()
            await self.read()

    async def read(self) -> None:
        """Reads the issuer's keys once."""
        self._read_s = self._clock()
        try:
            raw = await self._fetch()
            keys = keys_of(raw)
        except (OSError, ValueError, RecursionError, http.client.HTTPException, jwt.PyJWTError) as error:
            self._log.error("auth.keys_not_read", place=self._issuer.jwks, reason=str(error) or type(error).__name__)
            return
        if raw == self._raw:
            return
        self._raw, self._keys = raw, keys
        self._log.info("auth.keys_read", place=self._issuer.jwks, keys=sum(map(len, keys.values())))
        self.on_change()

    async def _fetch(self) -> bytes:
        """Fetches the issuer's set of keys.

        Raises:
            OSError: The set cannot be read, or not in time.
            http.client.HTTPException: The server's answer is no HTTP.
            ValueError: A part of the server's answer, such as its length, makes no sense.
        """
        if self._reading is not None and not self._reading.done():
            # A file system that hangs must not take one thread after the other.
            raise TimeoutError("the read before has not ended")
        source = Source(self._issuer.jwks, self._issuer.jwks_ca_file)
        self._reading = asyncio.get_running_loop().run_in_executor(None, source.read)
        self._reading.add_done_callback(_heard)
        try:
            async with asyncio.timeout(READ_ALL_S):
                return await asyncio.shield(self._reading)
        finally:
            source.stop()


def _heard(reading: asyncio.Future[bytes]) -> None:
    """Takes the outcome of a read that nobody may wait for any more, so that asyncio does not complain."""
    if not reading.cancelled():
        reading.exception()


class Source:
    """The place of the issuer's set of keys: a file, or a page that is read over https alone."""

    def __init__(self, place: str, ca_file: str) -> None:
        self._place, self._ca_file = place, ca_file
        self._socket: socket.socket | None = None
        self._stopped = False

    def read(self) -> bytes:
        """Reads the set's bytes, at most one more than are accepted. Blocking; raises what ``Bearers._fetch`` does."""
        if not is_https(self._place):
            with Path(self._place).open("rb") as file:
                return file.read(SET_BYTES_MAX + 1)
        opener = urllib.request.build_opener(_Https(self), HttpsOnly())
        with opener.open(self._place, timeout=READ_TIMEOUT_S) as answer:
            found: bytes = answer.read(SET_BYTES_MAX + 1)
            return found

    def context(self) -> ssl.SSLContext:
        """The TLS context of the connection, with the authorities that are trusted."""
        return ssl.create_default_context(cafile=self._ca_file or None)

    def connected(self, connection: socket.socket) -> None:
        """Notes the connection over which the set is being read, so that ``stop`` can end it."""
        self._socket = connection
        if self._stopped:
            self.stop()

    def stop(self) -> None:
        """Ends a read that goes on in its thread: a server that sends drop by drop would keep it for ever."""
        self._stopped = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Https(urllib.request.HTTPSHandler):
    """Opens https connections, and tells a ``Source`` of each."""

    def __init__(self, source: Source) -> None:
        super().__init__(context=source.context())
        self._source = source

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        source = self._source

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                source.connected(self.sock)

        return self.do_open(Connection, req, context=self._context)  # type: ignore[attr-defined]


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirect that leaves https, for anybody on the way could have written what stands there."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that a redirect asks for.

        Raises:
            URLError: The redirect leaves https.
        """
        if not is_https(newurl):
            raise urllib.error.URLError("it redirects to what is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def keys_of(raw: bytes) -> dict[str, tuple[Key, ...]]:
    """The keys of a JSON Web Key Set that can sign, by their ids; keys without one have the empty id.

    Of one id there may be several: an issuer that names no keys has two while it changes them. Only some
    are kept, for each costs a signature to be checked.

    Raises:
        ValueError: The bytes are no set of keys.
    """
    if len(raw) > SET_BYTES_MAX:
        raise ValueError("the set of keys is too large")
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no JSON Web Key Set")
    found: dict[str, tuple[Key, ...]] = {}
    for each in document["keys"]:
        if not isinstance(each, dict) or each.get("kty") not in ("RSA", "EC", "OKP") or each.get("use", "sig") != "sig":
            continue
        if "alg" in each and each["alg"] not in ALGORITHMS:
            continue  # For another use; and at `none` the library itself fails.
        try:
            key = jwt.PyJWK(each)
        except jwt.PyJWTError:
            continue  # A kind of key that is not known here; others may be.
        kid = str(each.get("kid", ""))
        found[kid] = (*found.get(kid, ()), Key(key, _mark_of(each)))[-KEYS_OF_AN_ID_MAX:]
    if not found:
        raise ValueError("the set has no key that can sign")
    return found


def _mark_of(key: dict[str, Any]) -> str:
    """The mark of a key; facades show it to each other in sessions, so it stays what it is for what keys consist of."""
    written = json.dumps(key, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(written.encode(errors="surrogatepass")).hexdigest()


def _is_principal(name: str) -> bool:
    try:
        check_principal(name)
    except DocumentError:
        return False
    return True
