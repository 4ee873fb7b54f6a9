"""Which web pages may use the facade: those that it serves itself, and those of origins that the settings name.

A page of any site can have a browser send requests here, with all rights of the person who looks at it. What it can
never do is send them without what a browser says of itself.

Must not know sockets. Invariants: (1) no request that a foreign page had sent changes anything; (2) no answer tells a
foreign page anything, unless the settings name its origin; (3) no page, our own included, runs or embeds what anybody
can store: our pages' policy allows what is of this origin, and values are.

Source: the Fetch standard, "CORS protocol", "Sec-Fetch-Site" and "Sec-Fetch-Dest"; RFC 6454; OWASP's cheat sheet on
request forgery.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from facade.errors import BadRequestError
from facade.routes.raw import Send

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPERATORS = (b"/v1/shards/", b"/v1/auth/", b"/v1/console/")
DATA = b"/v1/"
RUN = frozenset(
    {
        *(b"script", b"style", b"xslt", b"worker", b"sharedworker", b"serviceworker", b"audioworklet", b"paintworklet"),
        *(b"object", b"embed", b"frame", b"iframe", b"fencedframe", b"manifest"),
    }
)
"""What a browser says of a request whose answer it would run, or show as a part of a page (``Sec-Fetch-Dest``)."""
METHODS = b"GET, HEAD, PUT, POST, DELETE"
MAX_AGE_S = 600

_OWN = frozenset({b"same-origin", b"none"})
_PORTS = {b"http": b":80", b"https": b":443"}
_EXPOSED = (
    b"etag, doug-shard, doug-served-by, doug-consistency-used, doug-term, doug-applied-index, doug-trace-id, "
    b"doug-revision, doug-staleness-ms, doug-session, doug-expires-at, doug-request-id, idempotency-replayed, "
    b"retry-after, server-timing"
)

Header = tuple[bytes, bytes]


class Seen:
    """The headers of a request that tell which page sent it."""

    __slots__ = ("custom", "host", "json", "origin", "requested_headers", "requested_method", "site")

    def __init__(self, headers: Iterable[Header]) -> None:
        self.origin: bytes | None = None
        self.site: bytes | None = None
        self.host = b""
        self.requested_method: bytes | None = None
        self.requested_headers = b""
        self.json = False
        self.custom = False
        for name, value in headers:
            if name == b"origin":
                self.origin = value.strip().lower()
            elif name == b"sec-fetch-site":
                self.site = value.strip().lower()
            elif name == b"host":
                self.host = value.strip().lower()
            elif name == b"content-type":
                # A form cannot send this type, and a script needs permission by CORS first.
                self.json = value.split(b";", 1)[0].strip().lower() == b"application/json"
            elif name.startswith(b"doug-") or name == b"authorization":
                self.custom = True
            elif name == b"access-control-request-method":
                self.requested_method = value.strip()
            elif name == b"access-control-request-headers":
                self.requested_headers = value.strip()


def _without_port(scheme: bytes, host: bytes) -> bytes:
    return host.removesuffix(_PORTS.get(scheme, b""))


def _is_own(origin: bytes, host: bytes) -> bool:
    scheme, separator, name = origin.partition(b"://")
    return bool(separator and name) and _without_port(scheme, name) == _without_port(scheme, host)


def is_own_page(seen: Seen) -> bool:
    """Whether nothing that a browser says of a request speaks against one of our own pages having sent it."""
    return seen.site in (None, b"same-origin") and (seen.origin is None or _is_own(seen.origin, seen.host))


class Origins:
    """The origins whose pages may use the facade."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """``allowed`` are origins as browsers say them: ``https://app.example.com``; ``*`` is any."""
        self._allowed = frozenset(origin.lower().encode() for origin in allowed)
        self._any = b"*" in self._allowed
        self.share = bool(self._allowed)

    def allows(self, origin: bytes | None) -> bool:
        """Whether the settings name an origin."""
        return origin is not None and (self._any or origin in self._allowed)

    def check(self, method: str, raw_path: bytes, headers: Iterable[Header]) -> None:
        """Refuses a request that a foreign page may have had sent, if it may change something, and one to run data.

        Raises:
            BadRequestError: 403; a foreign page may have sent the request, or a browser would run the answer.
        """
        if method in SAFE:
            if raw_path.startswith(DATA):
                _refuse_to_run(headers)
            return
        seen = Seen(headers)
        if self.allows(seen.origin):
            return
        if seen.site is not None:
            if seen.site in _OWN:
                return
            raise _foreign(f"a page of another site ({seen.site.decode('latin-1')[:32]})")
        if seen.origin is not None:
            if _is_own(seen.origin, seen.host):
                return
            raise _foreign(f"a page of {seen.origin.decode('latin-1')[:64]!r}")
        # The client is no browser, or an old one, in which a form could send this; a script would need permission.
        if method == "POST" and raw_path.startswith(OPERATORS) and not seen.json and not seen.custom:
            raise BadRequestError(
                "cross_origin",
                "To tell this from what a form on a web page sends, it needs Content-Type: application/json, "
                "or any header whose name begins with Doug-.",
                status=403,
            )

    # Sharing with foreign pages (CORS).

    def preflight(self, headers: Iterable[Header]) -> list[Header] | None:
        """The answer to a browser that asks whether a page may send a request; None if this is no such question."""
        seen = Seen(headers)
        if seen.requested_method is None or not self.allows(seen.origin):
            return None
        answer = [
            *self._shared(seen.origin or b""),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ]
        if seen.requested_headers:
            answer.append((b"access-control-allow-headers", seen.requested_headers))
        return answer

    def sharing(self, headers: Iterable[Header], send: Send) -> Send:
        """Wraps ``send`` so that the page that asks may read the answer, if the settings name the page's origin."""
        seen = Seen(headers)
        if not self.allows(seen.origin):
            return send
        extra = [*self._shared(seen.origin or b""), (b"access-control-expose-headers", _EXPOSED)]

        async def share(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        return share

    @staticmethod
    def _shared(origin: bytes) -> list[Header]:
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


def _refuse_to_run(headers: Iterable[Header]) -> None:
    for name, value in headers:
        if name == b"sec-fetch-dest" and value.strip().lower() in RUN:
            raise BadRequestError(
                "not_for_pages",
                f"Nothing below /v1/ is run or embedded by a page, as {value.strip().decode('latin-1')!r} would be; "
                "pages read it by fetch, or show it as an image.",
                status=403,
            )


def _foreign(who: str) -> BadRequestError:
    return BadRequestError(
        "cross_origin",
        f"Nothing is changed on behalf of {who}; DOUGDB_CORS_ORIGINS names those that may.",
        status=403,
    )
