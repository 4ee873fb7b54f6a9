# Made by tools/blocking.py of aio/sender.py; change that, and run `make client`.
"""Sends calls, and sends them again where that is safe. It must not know what the calls are.

Invariants: those of ``dougdb.patience``; and a call whose facade cannot be reached goes to the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from dougdb.answers import Answer, error_of, error_of_transport
from dougdb.bearer import headers_of
from dougdb.blocking.runtime import HttpClient, Mutex, Pace, Transport, http_client
from dougdb.calls import Call
from dougdb.checks import base_url
from dougdb.errors import ClientClosedError, DougdbError, IdempotencyFullError
from dougdb.idempotency import AUTO, EXPIRED, new_key
from dougdb.patience import Attempts
from dougdb.shapes import DEFAULT_URL

R = TypeVar("R")

DEFAULT_TIMEOUT_S = 15.0
DEFAULT_DEADLINE_S = 30.0
IN_FLIGHT = 64
"""The requests at once: more make a facade no faster, and every connection costs both sides memory."""
FULL_S = 60.0
"""For how long writes are sent without a key of the client's own after a shard had no room for one."""
SESSION = "Doug-Session"


class Session:
    """The session of a client: the newest token of what it has seen and written.

    Attributes:
        token: The newest token; empty before the first answer.
        turn: A lock that a request holds while it is under way: only after its end a token tells of it.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.turn = Mutex()


class Sender:
    """A client without its calls. Use it in a ``with`` block, or call ``close``.

    Args:
        url: The facade's URL, or several, of which each is tried when the one before cannot be reached.
        timeout_s: How long one step of a request (connect, send, receive) may take.
        deadline_s: How long after its begin a failed call may be begun again; 0 for never.
        exactly_once: Whether the client makes an idempotency key for every write, so that a write whose outcome is
            unknown may be repeated. A shard keeps a bounded number of keys for a day; where it has no room for another
            one, a write goes without, and is then not repeated once it may have been applied.
        ca_file: The authority that signs the facade's certificate (PEM), for HTTPS; None for those of the system.
        token: The token that is shown to the facade; None for that of the environment variable DOUGDB_TOKEN.
        in_flight: How many requests may be on their way at once. Any more wait for their turn, and their time has not
            begun until they have it.
        transport: Another httpx transport, for tests.
        pace: Another clock, for tests.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        deadline_s: float = DEFAULT_DEADLINE_S,
        exactly_once: bool = True,
        ca_file: str | None = None,
        token: str | None = None,
        in_flight: int = IN_FLIGHT,
        transport: Transport | None = None,
        pace: Pace | None = None,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"at least one request must be allowed in flight, not {in_flight}")
        self._urls = [base_url(each) for each in ([url] if isinstance(url, str) else url)]
        if not self._urls:
            raise ValueError("no URL was given")
        self._at = 0
        self._deadline_s = deadline_s
        self._exactly_once = exactly_once
        self._full_until_s = float("-inf")
        self._timed_keys = True
        self._pace = pace or Pace()
        self._session: Session | None = None
        self._is_view = False
        self._http: HttpClient = http_client(
            self._urls[0],
            timeout_s=timeout_s,
            ca_file=ca_file,
            in_flight=in_flight,
            headers=headers_of(token),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a session has none of its own, and closes nothing."""
        if not self._is_view:
            self._http.close()

    @property
    def url(self) -> str:
        """The facade that is asked next."""
        return self._urls[self._at]

    @property
    def session_token(self) -> str:
        """The token with which another client can go on; empty outside of a session, and before its first answer."""
        return self._session.token if self._session is not None else ""

    def _call(
        self, call: Call[R], *, deadline_s: float | None = None, timeout_s: float | httpx.Timeout | None = None
    ) -> R:
        """Sends a call until it is answered, or its time is over.

        Args:
            call: The call.
            deadline_s: How long after its begin the call may be begun again; None for the client's ``deadline_s``.
            timeout_s: How long a step may take; None for the client's ``timeout_s``.

        Raises:
            DougdbError: The call failed; the class tells its outcome.
        """
        own_key = call.token is AUTO
        if own_key:
            call = call.keyed(self._own_key())
        elif isinstance(call.token, str):
            call = call.keyed(call.token)
        attempts = self._attempts(call, deadline_s)
        while True:
            try:
                return call.result(self._exchange(call, timeout_s))
            except DougdbError as error:
                if own_key and isinstance(error, IdempotencyFullError) and not attempts.uncertain:
                    # Nothing was applied. Without a key the write is sent as it is, but must not be repeated in doubt.
                    self._full_until_s = self._pace.now() + FULL_S
                    call = call.keyed(None)
                    attempts = self._attempts(call, deadline_s)
                    continue
                if own_key and self._timed_keys and error.code == EXPIRED and not attempts.uncertain:
                    # The key is new, so nothing was applied: this machine's clock is behind.
                    self._timed_keys = False
                    call = call.keyed(self._own_key())
                    attempts = self._attempts(call, deadline_s)
                    continue
                self._pace.sleep(attempts.pause_after(error, self._pace.now()))

    def _own_key(self) -> str | None:
        """A new idempotency key; None if the client makes none, or a shard lately had no room for one."""
        if not self._exactly_once or self._pace.now() < self._full_until_s:
            return None
        return new_key(timed=self._timed_keys)

    def _attempts(self, call: Call[R], deadline_s: float | None = None) -> Attempts:
        allowed_s = self._deadline_s if deadline_s is None else deadline_s
        return Attempts(
            repeatable=call.repeatable, deadline_s=allowed_s if call.repeats else 0.0, now_s=self._pace.now()
        )

    def _exchange(self, call: Call[R], timeout_s: float | httpx.Timeout | None) -> Answer:
        """Sends a call once; the calls of a session go one after the other."""
        if self._session is None:
            return self._send(call, timeout_s)
        with self._session.turn:
            return self._send(call, timeout_s)

    def _send(self, call: Call[R], timeout_s: float | httpx.Timeout | None) -> Answer:
        url = self.url
        prepared = self._request(call, url, timeout_s)
        try:
            response = self._http.send(prepared)
        except httpx.RequestError as error:
            self._fail_over(url)
            raise error_of_transport(error, url, write=call.write) from error
        answer = Answer(response.status_code, response.headers, response.content)
        self._saw(response.headers)
        if not answer.is_success and answer.status not in call.codes:
            raise error_of(answer, write=call.write, key=call.key)
        return answer

    @contextlib.contextmanager
    def _stream(self, call: Call[R], timeout_s: float | httpx.Timeout | None = None) -> Iterator[Iterator[bytes]]:
        """The body of an answer, in pieces as they arrive.

        Raises:
            DougdbError: The call failed, or the connection broke while it was read.
        """
        url = self.url
        try:
            response = self._open(call, url, timeout_s)
            try:
                if not response.is_success:
                    answer = Answer(response.status_code, response.headers, response.read())
                    raise error_of(answer, write=call.write, key=call.key)
                yield response.iter_bytes()
            finally:
                response.close()
        except httpx.RequestError as error:
            self._fail_over(url)
            raise error_of_transport(error, url, write=call.write) from error

    def _open(self, call: Call[R], url: str, timeout_s: float | httpx.Timeout | None) -> httpx.Response:
        """Sends a call once and returns the beginning of its answer, which tells how far the session has seen then."""
        if self._session is None or not (call.reads or call.write):
            return self._http.send(self._request(call, url, timeout_s), stream=True)
        with self._session.turn:
            response = self._http.send(self._request(call, url, timeout_s), stream=True)
            if response.is_success:
                self._saw(response.headers)
            return response

    def _request(self, call: Call[R], url: str, timeout_s: float | httpx.Timeout | None = None) -> httpx.Request:
        if self._http.is_closed:
            raise ClientClosedError("the client is closed; nothing was sent")
        return self._http.build_request(
            call.method,
            f"{url}{call.path}",
            params=call.params,
            headers=self._headers(call),
            content=call.content,
            timeout=self._http.timeout if timeout_s is None else timeout_s,
        )

    def _headers(self, call: Call[R]) -> dict[str, str]:
        """The header fields of a call and of the session."""
        headers = dict(call.headers)
        if self._session is not None and (call.reads or call.write):
            if self._session.token:
                headers[SESSION] = self._session.token
            if call.reads and "consistency" not in call.params:
                headers["Doug-Consistency"] = "session"
        return headers

    def _saw(self, headers: httpx.Headers) -> None:
        if self._session is not None:
            self._session.token = headers.get(SESSION, self._session.token)

    def _saw_more(self, before: str, token: str) -> None:
        """Takes the token at the end of a stream, unless other answers have come since: it knows nothing of those."""
        if self._session is not None and token and self._session.token == before:
            self._session.token = token

    def _fail_over(self, url: str) -> None:
        if url == self.url:
            self._at = (self._at + 1) % len(self._urls)
