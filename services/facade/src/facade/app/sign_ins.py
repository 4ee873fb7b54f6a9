"""The sessions of browsers that have signed in: a cookie instead of a token, and a word that only our own page knows.

A browser sends a cookie whatever page asks for it, and a cookie of one port to every other port of the same host. So
the cookie alone proves nothing: every request that comes with it also needs the header ``Doug-Csrf``, which no page of
another origin can know or send, and has to come from a page of ours by the browser's own word.

The cookie holds whom it is about and what that rests on (``Facts``), signed by a key of the facades, and never the
token. Must not know what somebody may do, nor whether their token still counts (``facade.app.gate`` asks that again).
Invariants:

1. What a request shows counts only if cookie, header and page all are right.
2. Nothing that is logged or kept here would let anybody in.
3. A session that was signed out at this facade never counts here again (``facade.app.sign_outs``).

Source: docs/auth.md, Browsers; RFC 6265bis (cookies, ``__Host-``, SameSite); OWASP's cheat sheets on sessions and on
request forgery (signed double submit, bound to the session).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from facade.app.origins import Seen, is_own_page
from facade.app.sign_outs import SignOuts
from facade.errors import BadRequestError, SettingsError
from facade.settings import PREFIX

COOKIE = b"dougdb-session"
SECURE_COOKIE = b"__Host-dougdb-session"
"""The cookie's name over TLS: a browser accepts a cookie of this name from the host itself alone."""
CSRF = b"doug-csrf"
KEY_BYTES_MIN = 32
COOKIE_CHARACTERS_MAX = 3800
"""The longest cookie: browsers keep 4096 characters with the name and the attributes."""
TRIED_MAX = 4
"""How many cookies are tried: a page of a neighbouring host may have a browser send several of the same name."""

Header = tuple[bytes, bytes]


class Facts(NamedTuple):
    """The content of a browser's session.

    Attributes:
        id: The session's id.
        name: The principal that has signed in.
        kind: How the principal has proved who it is.
        key: The key of that proof, as the gate names it.
        principals: The names by which the principal is given rights.
        expires_s: When the session ends, in seconds since the epoch.
    """

    id: str
    name: str
    kind: str
    key: str
    principals: tuple[str, ...]
    expires_s: float


class Begun(NamedTuple):
    """A session that has begun.

    Attributes:
        facts: The content of the session.
        cookie: The cookie's value.
        csrf: The word that requests have to carry in ``Doug-Csrf``.
    """

    facts: Facts
    cookie: str
    csrf: str


class SignIns:
    """Begins, reads and ends the sessions of browsers."""

    def __init__(self, key_file: str = "") -> None:
        """Reads the key that signs sessions; without a file draws one, and sessions end with this process.

        Raises:
            SettingsError: The file cannot be read, or holds too little.
        """
        self._key = _read_key(key_file) if key_file else secrets.token_bytes(KEY_BYTES_MIN)
        self._sign_outs = SignOuts()

    def begin(self, name: str, kind: str, key: str, principals: tuple[str, ...], expires_s: float) -> Begun:
        """Makes a session.

        Raises:
            BadRequestError: The session would not fit into a cookie.
        """
        facts = Facts(secrets.token_urlsafe(18), name, kind, key, principals, expires_s)
        content = _b64(orjson.dumps([*facts]))
        cookie = f"{content}.{self._sign(b'cookie', content.encode())}"
        if len(cookie) > COOKIE_CHARACTERS_MAX:
            detail = "This principal has too many groups for the cookie of a session; use the token itself."
            raise BadRequestError("bad_auth", detail)
        return Begun(facts, cookie, self.csrf_of(facts))

    def csrf_of(self, facts: Facts) -> str:
        """The word that requests of a session have to carry in ``Doug-Csrf``."""
        return self._sign(b"csrf", facts.id.encode())

    def read(self, headers: Iterable[Header], method: str, now_s: float) -> Facts | None:
        """The session that a request shows; None if it shows none that counts.

        Raises:
            BadRequestError: 403; the request shows a session, and a page may have sent it that is not the console's.
        """
        given = list(headers)
        found = [facts for text in _cookies(given) if (facts := self._facts(text, now_s)) is not None]
        if not found:
            return None
        if not is_own_page(Seen(given)):
            detail = "A session of the console counts for requests of the console's own pages alone."
            raise BadRequestError("cross_origin", detail, status=403)
        shown = [value for name, value in given if name == CSRF]
        for facts in found:
            if len(shown) == 1 and hmac.compare_digest(shown[0], self.csrf_of(facts).encode()):
                return facts
        detail = f"A session's cookie proves nothing by itself: this {method[:32]} needs its word in Doug-Csrf, too."
        raise BadRequestError("csrf", detail, status=403)

    def end(self, principal: str, session: str, expires_s: float, now_s: float) -> None:
        """Ends a session, at this facade and at once (``SignOuts.add``)."""
        self._sign_outs.add(principal, session, expires_s, now_s)

    def veiled(self, text: str) -> str:
        """A stand-in for a secret's digest in a cookie, against which nobody can try out secrets."""
        return self._sign(b"veil", text.encode())

    def _facts(self, text: bytes, now_s: float) -> Facts | None:
        content, _, signature = text.partition(b".")
        if not hmac.compare_digest(signature, self._sign(b"cookie", content).encode()):
            return None
        # Signed content was made by this version, or by another one with the same key.
        try:
            session, name, kind, key, principals, expires_s = orjson.loads(urlsafe_b64decode(content + b"=="))
        except (binascii.Error, ValueError, TypeError):
            return None
        if expires_s <= now_s or self._sign_outs.has(name, session, expires_s):
            return None
        return Facts(session, name, kind, key, tuple(principals), expires_s)

    def _sign(self, purpose: bytes, content: bytes) -> str:
        return _b64(hmac.digest(self._key, purpose + b"\0" + content, hashlib.sha256))


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _cookies(headers: Iterable[Header]) -> Iterator[bytes]:
    """The values of our cookies, those over TLS first."""
    pairs = [
        (name.strip(), value.strip())
        for header, text in headers
        if header == b"cookie"
        for name, _, value in (pair.partition(b"=") for pair in text.split(b";"))
    ]
    ours = [value for wanted in (SECURE_COOKIE, COOKIE) for name, value in pairs if name == wanted and value]
    yield from ours[:TRIED_MAX]


def _read_key(path: str) -> bytes:
    setting = f"{PREFIX}AUTH_SESSION_KEY_FILE"
    try:
        content = Path(path).read_bytes().strip()
    except OSError as error:
        raise SettingsError(setting, f"{path}: {error.strerror}") from error
    if len(content) < KEY_BYTES_MIN:
        raise SettingsError(setting, f"{path}: a key has at least {KEY_BYTES_MIN} bytes")
    return hashlib.sha256(content).digest()


def set_cookie(value: str, *, secure: bool) -> str:
    """The header ``Set-Cookie`` that gives a browser a session until it is closed; an empty one takes it."""
    name = (SECURE_COOKIE if secure else COOKIE).decode()
    ending = "" if value else "; Max-Age=0"
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}{ending}"
