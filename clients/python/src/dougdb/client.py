"""The typed clients, one blocking and one for asyncio. Both are the same thin layer over httpx and ``dougdb.wire``.

They never repeat a write by themselves: the caller knows best whether repeating is harmless. For loopback addresses the
proxy variables of the environment are ignored.
"""

from __future__ import annotations

import contextlib
import functools
import io
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import quote

import httpx

from dougdb import bearer, checks
from dougdb.checks import OCTET_STREAM, Bytes, base_url, is_loopback, proxy_of, value_bytes
from dougdb.errors import CertificateError, ServerError
from dougdb.lanes import Lanes
from dougdb.wire import (
    DEFAULT_URL,
    ClusterStatus,
    Consistency,
    LeaderMoved,
    MemberChange,
    Members,
    Receipt,
    Timeline,
    Value,
    cluster_of,
    encode_key,
    error_of,
    error_of_transport,
    leader_moved_of,
    member_change_of,
    members_of,
    receipt_of,
    timeline_of,
    value_of,
)

DEFAULT_TIMEOUT_S = 15.0
BACKUP_TIMEOUT_S = 180.0
"""A node flushes what is in memory first, and reads all its tables once for their checksums."""
IN_FLIGHT = 64
"""More requests at once make a facade no faster, and every connection costs both sides memory."""
EVENTS_MAX = 10_000
"""The most events that one request may ask for."""
_ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1)
_JSON = {"Accept": "application/json"}
_RAW = {"Accept": "*/*"}


@functools.cache
def _verify(url: str, ca_file: str | None) -> ssl.SSLContext:
    """Loading the certificates takes longer than a request; plain HTTP does not need them.

    The bare context still verifies, with no authority to trust: should a redirect lead to HTTPS, it is refused.

    Raises:
        CertificateError: The file cannot be read, or holds no certificate.
    """
    if not url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        # What httpx would make of True, but once, and not for each connection.
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one, too.
        raise CertificateError(f"{ca_file}: {error.strerror or error}") from None


def _key_text(key: str | Bytes) -> str:
    return key if isinstance(key, str) else bytes(key).decode(errors="backslashreplace")


def _parameters(consistency: Consistency | str | None) -> dict[str, str]:
    return {} if consistency is None else {"consistency": str(consistency)}


def _members_path(shard: str | int) -> str:
    return f"/v1/shards/{quote(str(shard), safe='')}/members"


def _force(force: bool) -> dict[str, str]:
    return {"force": "true"} if force else {}


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        raise ServerError(response.status_code, "the answer is not JSON") from None
    if not isinstance(document, dict):
        raise ServerError(response.status_code, "the answer is not a JSON object")
    return document


class _Body(io.RawIOBase):
    """The body of an answer as a file that is read once, from its beginning to its end."""

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._pieces = response.iter_raw()
        self._url = url
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return 0
            except httpx.RequestError as error:
                raise error_of_transport(error, self._url, write=False) from error
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class DougClient:
    """A blocking client of one facade. Use it in a ``with`` block, or call ``close``.

    Args:
        url: Where the facade listens.
        timeout_s: How long one step of a request (connect, send, receive) may take.
        ca_file: The authority that signs the facade's certificate (PEM), for HTTPS; those of the system without it.
        token: What is shown to say who asks; that of the environment variable DOUGDB_TOKEN without it.
        transport: Another httpx transport, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ca_file: str | None = None,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = base_url(url)
        self._http = httpx.Client(
            timeout=timeout_s,
            transport=transport,
            trust_env=not is_loopback(url),
            verify=_verify(url, ca_file),
            headers=bearer.headers_of(token),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, key: str | Bytes, *, consistency: Consistency | str | None = None) -> Value:
        """Reads a value.

        Raises:
            KeyNotFoundError: There is none.
            UnavailableError: Nobody could serve the read in this consistency.
        """
        path = f"/v1/kv/{encode_key(key)}"
        return value_of(self._send("GET", path, params=_parameters(consistency), headers=_RAW, key=_key_text(key)))

    def put(self, key: str | Bytes, value: Bytes, *, content_type: str = OCTET_STREAM) -> Receipt:
        """Stores a value under a key, whatever is there.

        Raises:
            UnavailableError: It was certainly not stored.
            OutcomeUnknownError: It may have been stored, or may be later.
        """
        path = f"/v1/kv/{encode_key(key)}"
        headers = {"Content-Type": checks.content_type(content_type)}
        return receipt_of(self._send("PUT", path, content=value_bytes(value), headers=headers, write=True))

    def delete(self, key: str | Bytes) -> Receipt:
        """Removes a key; that it does not exist is no error.

        Raises:
            UnavailableError: It was certainly not removed.
            OutcomeUnknownError: It may have been removed, or may be later.
        """
        return receipt_of(self._send("DELETE", f"/v1/kv/{encode_key(key)}", write=True))

    def cluster(self) -> ClusterStatus:
        """Every shard with its nodes, their roles, terms and indexes."""
        return cluster_of(_document(self._send("GET", "/v1/cluster", headers=_JSON)))

    def events(self, shard: str | int, *, since_us: int = 0, limit: int = EVENTS_MAX) -> Timeline:
        """What the nodes of a shard did and why, oldest first.

        Args:
            shard: The shard's id.
            since_us: Only what happened at or after this time, microseconds since the epoch.
            limit: At most so many, the newest.
        """
        parameters = {"since": since_us, "limit": limit}
        path = f"/v1/shards/{quote(str(shard), safe='')}/events"
        return timeline_of(_document(self._send("GET", path, params=parameters, headers=_JSON)))

    def transfer_leadership(self, shard: str | int, to: str | None = None) -> LeaderMoved:
        """Hands the leadership of a shard over, and waits until another node leads.

        Args:
            shard: The shard's id.
            to: The node that is to lead; the most caught-up one without it.

        Raises:
            RejectedError: It cannot go there: no such shard or node, or that node leads already.
            UnavailableError: The shard has no leader.
            OutcomeUnknownError: Nobody was seen to take over in time.
        """
        path = f"/v1/shards/{quote(str(shard), safe='')}/leader"
        wanted = {} if to is None else {"to": to}
        return leader_moved_of(_document(self._send("POST", path, json=wanted, headers=_JSON, write=True)))

    def members(self, shard: str | int) -> Members:
        """The members of a shard, as its leader sees them.

        Raises:
            RejectedError: There is no such shard.
            UnavailableError: It has no leader.
        """
        return members_of(_document(self._send("GET", _members_path(shard), headers=_JSON)))

    def add_member(self, shard: str | int, name: str, address: str) -> MemberChange:
        """Admits a running node as a learner; it becomes a voter by itself once it has caught up.

        Args:
            shard: The shard's id.
            name: The node's name.
            address: Its Raft address, host:port.

        Raises:
            RejectedError: It cannot be admitted: it is a member, nobody or another node is at the address.
            UnavailableError: Certainly not changed: no leader, or another change came first.
            OutcomeUnknownError: Nobody can tell; ``members`` shows what became of it.
        """
        wanted = {"name": name, "address": address}
        answer = self._send("POST", _members_path(shard), json=wanted, headers=_JSON, write=True)
        return member_change_of(_document(answer))

    def remove_member(self, shard: str | int, name: str, *, force: bool = False) -> MemberChange:
        """Removes a member; raises what ``add_member`` does.

        Args:
            shard: The shard's id.
            name: The node's name.
            force: Also when the others cannot form a healthy quorum now.
        """
        path = f"{_members_path(shard)}/{quote(name, safe='')}"
        answer = self._send("DELETE", path, params=_force(force), headers=_JSON, write=True)
        return member_change_of(_document(answer))

    def replace_member(
        self, shard: str | int, name: str, address: str | None = None, *, force: bool = False
    ) -> MemberChange:
        """Admits a node whose disk was wiped or replaced, in place of what it was; raises what ``add_member`` does.

        Args:
            shard: The shard's id.
            name: The node's name.
            address: Its Raft address; the one that is known without it.
            force: Also when the others cannot form a healthy quorum now.
        """
        path = f"{_members_path(shard)}/{quote(name, safe='')}/replace"
        wanted = {} if address is None else {"address": address}
        answer = self._send("POST", path, json=wanted, params=_force(force), headers=_JSON, write=True)
        return member_change_of(_document(answer))

    @contextlib.contextmanager
    def backup(self, shard: str | int) -> Iterator[BinaryIO]:
        """The state of a shard as a tar archive, with every write that was acknowledged before; read as it comes.

        Reading raises UnavailableError when the connection breaks.

        Raises:
            RejectedError: There is no such shard.
            UnavailableError: No replica can send it now.
        """
        url = f"{self.url}/v1/shards/{quote(str(shard), safe='')}/backup"
        steps = self._http.timeout
        timeout = httpx.Timeout(connect=steps.connect, write=steps.write, pool=steps.pool, read=BACKUP_TIMEOUT_S)
        try:
            with self._http.stream("GET", url, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response, write=False)
                with io.BufferedReader(_Body(response, self.url), 1 << 16) as body:
                    yield cast(BinaryIO, body)
        except httpx.RequestError as error:
            raise error_of_transport(error, self.url, write=False) from error

    def partitions(self) -> dict[str, Any]:
        """The partition map: which shard owns which slots, and its epoch."""
        return _document(self._send("GET", "/v1/partitions", headers=_JSON))

    def version(self) -> dict[str, Any]:
        """The facade's version."""
        return _document(self._send("GET", "/v1/version", headers=_JSON))

    def is_ready(self) -> bool:
        """Whether the facade has its map, and every shard has had a leader."""
        try:
            return self._http.get(f"{self.url}/readyz").status_code == 200
        except httpx.RequestError:
            return False

    def _send(self, method: str, path: str, *, write: bool = False, key: str = "", **request: Any) -> httpx.Response:
        # Whatever is wrong with the request is an error of its own, before anything is sent.
        prepared = self._http.build_request(method, f"{self.url}{path}", **request)
        try:
            response = self._http.send(prepared)
        except httpx.RequestError as error:
            raise error_of_transport(error, self.url, write=write) from error
        if not response.is_success:
            raise error_of(response, write=write, key=key)
        return response


class AsyncDougClient:
    """The same client for asyncio. Use it in an ``async with`` block, or call ``close``.

    Args:
        url: Where the facade listens.
        timeout_s: How long one step of a request (connect, send, receive) may take.
        ca_file: The authority that signs the facade's certificate (PEM), for HTTPS; those of the system without it.
        in_flight: How many requests may be on their way at once. Any more wait for their turn, and their time has not
            begun until they have it.
        transport: Another httpx transport, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ca_file: str | None = None,
        in_flight: int = IN_FLIGHT,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"at least one request must be allowed in flight, not {in_flight}")
        self.url = base_url(url)
        verify, proxy = _verify(url, ca_file), proxy_of(url)

        def lane() -> httpx.AsyncBaseTransport:
            return transport or httpx.AsyncHTTPTransport(verify=verify, limits=_ONE_CONNECTION, proxy=proxy)

        self._http = httpx.AsyncClient(
            headers=bearer.headers_of(token),
            timeout=timeout_s,
            transport=Lanes(lane, in_flight),
            trust_env=not is_loopback(url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def get(self, key: str | Bytes, *, consistency: Consistency | str | None = None) -> Value:
        """Reads a value; see ``DougClient.get``."""
        path = f"/v1/kv/{encode_key(key)}"
        return value_of(
            await self._send("GET", path, params=_parameters(consistency), headers=_RAW, key=_key_text(key))
        )

    async def put(self, key: str | Bytes, value: Bytes, *, content_type: str = OCTET_STREAM) -> Receipt:
        """Stores a value under a key; see ``DougClient.put``."""
        path = f"/v1/kv/{encode_key(key)}"
        headers = {"Content-Type": checks.content_type(content_type)}
        return receipt_of(await self._send("PUT", path, content=value_bytes(value), headers=headers, write=True))

    async def delete(self, key: str | Bytes) -> Receipt:
        """Removes a key; see ``DougClient.delete``."""
        return receipt_of(await self._send("DELETE", f"/v1/kv/{encode_key(key)}", write=True))

    async def cluster(self) -> ClusterStatus:
        """Every shard with its nodes, their roles, terms and indexes."""
        return cluster_of(_document(await self._send("GET", "/v1/cluster", headers=_JSON)))

    async def events(self, shard: str | int, *, since_us: int = 0, limit: int = EVENTS_MAX) -> Timeline:
        """What the nodes of a shard did and why; see ``DougClient.events``."""
        parameters = {"since": since_us, "limit": limit}
        path = f"/v1/shards/{quote(str(shard), safe='')}/events"
        return timeline_of(_document(await self._send("GET", path, params=parameters, headers=_JSON)))

    async def transfer_leadership(self, shard: str | int, to: str | None = None) -> LeaderMoved:
        """Hands the leadership of a shard over; see ``DougClient.transfer_leadership``."""
        path = f"/v1/shards/{quote(str(shard), safe='')}/leader"
        wanted = {} if to is None else {"to": to}
        return leader_moved_of(_document(await self._send("POST", path, json=wanted, headers=_JSON, write=True)))

    async def members(self, shard: str | int) -> Members:
        """The members of a shard; see ``DougClient.members``."""
        return members_of(_document(await self._send("GET", _members_path(shard), headers=_JSON)))

    async def add_member(self, shard: str | int, name: str, address: str) -> MemberChange:
        """Admits a node; see ``DougClient.add_member``."""
        wanted = {"name": name, "address": address}
        answer = await self._send("POST", _members_path(shard), json=wanted, headers=_JSON, write=True)
        return member_change_of(_document(answer))

    async def remove_member(self, shard: str | int, name: str, *, force: bool = False) -> MemberChange:
        """Removes a member; see ``DougClient.remove_member``."""
        path = f"{_members_path(shard)}/{quote(name, safe='')}"
        answer = await self._send("DELETE", path, params=_force(force), headers=_JSON, write=True)
        return member_change_of(_document(answer))

    async def replace_member(
        self, shard: str | int, name: str, address: str | None = None, *, force: bool = False
    ) -> MemberChange:
        """Admits a node's new disk in place of its old one; see ``DougClient.replace_member``."""
        path = f"{_members_path(shard)}/{quote(name, safe='')}/replace"
        wanted = {} if address is None else {"address": address}
        answer = await self._send("POST", path, json=wanted, params=_force(force), headers=_JSON, write=True)
        return member_change_of(_document(answer))

    async def partitions(self) -> dict[str, Any]:
        """The partition map: which shard owns which slots, and its epoch."""
        return _document(await self._send("GET", "/v1/partitions", headers=_JSON))

    async def version(self) -> dict[str, Any]:
        """The facade's version."""
        return _document(await self._send("GET", "/v1/version", headers=_JSON))

    async def is_ready(self) -> bool:
        """Whether the facade has its map, and every shard has had a leader."""
        try:
            return (await self._http.get(f"{self.url}/readyz")).status_code == 200
        except httpx.RequestError:
            return False

    async def _send(
        self, method: str, path: str, *, write: bool = False, key: str = "", **request: Any
    ) -> httpx.Response:
        # Whatever is wrong with the request is an error of its own, before anything is sent.
        prepared = self._http.build_request(method, f"{self.url}{path}", **request)
        try:
            response = await self._http.send(prepared)
        except httpx.RequestError as error:
            raise error_of_transport(error, self.url, write=write) from error
        if not response.is_success:
            raise error_of(response, write=write, key=key)
        return response
