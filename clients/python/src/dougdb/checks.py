"""Checks the arguments of calls before anything is sent, so that a wrong argument never leads to an unknown outcome.

Pure functions. A wrong type is a ``TypeError``, a wrong value a ``ValueError``.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.request
from datetime import timedelta

import httpx

from dougdb.errors import InvalidArgumentError, InvalidKeyError

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 20
CONTENT_TYPE_BYTES_MAX = 255
IDEMPOTENCY_KEY_MAX = 255
OPERATION_KEY_MAX = IDEMPOTENCY_KEY_MAX + 20
TTL_S_MAX = 3_153_600_000.0
"""A hundred years."""
OCTET_STREAM = "application/octet-stream"

_FIELD = re.compile(r"[\x20-\x7e]+\Z")
_TTL = re.compile(r"([0-9]{1,15})(ms|s|m|h|d|)\Z")
_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Bytes = bytes | bytearray | memoryview


def base_url(text: str) -> str:
    """A facade's URL without a slash at its end.

    Raises:
        ValueError: The text is no URL with http or https and a host.
    """
    try:
        url = httpx.URL(text)
        # httpx reduces a port that is too large to another one instead of refusing it.
        _ = urllib.parse.urlsplit(text).port
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise ValueError(f"not a URL: {text!r}: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"the URL must begin with http:// or https://, not {text!r}")
    if not url.host or url.query or url.fragment:
        raise ValueError(f"the URL is a scheme, a host, and perhaps a port and a path, not {text!r}")
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine, so that no proxy may be used."""
    host = httpx.URL(url).host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; None for a URL of this machine."""
    parsed = httpx.URL(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parsed.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parsed.scheme) or proxies.get("all")


def value_bytes(value: object) -> bytes:
    """A value's bytes.

    Raises:
        TypeError: The value is text, None, or anything else than bytes.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    hint = "; encode the text first" if isinstance(value, str) else ""
    raise TypeError(f"a value is bytes, not {type(value).__name__}{hint}")


def content_type(text: str) -> str:
    """Checks that the facade accepts a content type, and returns it.

    Raises:
        TypeError: The content type is no text.
        InvalidArgumentError: The content type is empty, too long, or not printable ASCII.
    """
    if not _FIELD.match(text) or len(text) > CONTENT_TYPE_BYTES_MAX:
        raise InvalidArgumentError(
            f"a content type is printable ASCII of at most {CONTENT_TYPE_BYTES_MAX} bytes, not {text!r}"
        )
    return text


def key_bytes(key: str | Bytes) -> bytes:
    """A key's bytes.

    Raises:
        TypeError: The key is neither text nor bytes.
        InvalidKeyError: The key is empty, longer than 1 KiB, or text that has no UTF-8.
    """
    try:
        raw = key.encode() if isinstance(key, str) else value_bytes(key)
    except UnicodeError:
        raise InvalidKeyError("the key is not valid UTF-8") from None
    except TypeError:
        raise TypeError(f"a key is str or bytes, not {type(key).__name__}") from None
    if not raw:
        raise InvalidKeyError("the key is empty")
    if len(raw) > KEY_BYTES_MAX:
        raise InvalidKeyError(f"the key has {len(raw)} bytes; the limit is {KEY_BYTES_MAX}")
    return raw


def key_text(key: str | Bytes) -> str:
    """A key as text for messages; bytes that are no UTF-8 are escaped."""
    return key if isinstance(key, str) else bytes(key).decode(errors="backslashreplace")


def ttl(value: float | str | timedelta, *, may_keep: bool = True, name: str = "a ttl") -> str:
    """A time to live, in the form that the facade reads.

    Args:
        value: Seconds, a ``timedelta``, a text like ``500ms``, ``30s``, ``5m``, ``2h``, ``7d``, or ``keep``.
        may_keep: Whether ``keep`` is allowed.
        name: The name of the argument in messages.

    Raises:
        TypeError: The value has none of these types.
        InvalidArgumentError: The time is shorter than a millisecond or longer than a hundred years, or the text has
            another form.
    """
    if isinstance(value, str):
        if not (_TTL.match(value) or (may_keep and value == "keep")):
            forms = "30, 30s, 500ms, 5m, 2h, 7d" + (", keep" if may_keep else "")
            raise InvalidArgumentError(f"{name} is one of {forms}, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{name} is a number of seconds, a timedelta or text, not {type(value).__name__}")
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0.001 <= seconds <= TTL_S_MAX:
        raise InvalidArgumentError(f"{name} is at least a millisecond and at most a hundred years, not {seconds:g} s")
    return f"{round(seconds * 1000)}ms"


def ttl_seconds(value: float | str | timedelta, *, name: str = "a ttl") -> float:
    """The seconds of a time to live.

    Raises:
        TypeError: See ``ttl``.
        InvalidArgumentError: See ``ttl``.
    """
    match = _TTL.match(ttl(value, may_keep=False, name=name))
    assert match is not None
    return int(match[1]) * _UNITS_S[match[2]]


def revision(value: str | int) -> str:
    """A revision, in decimal digits.

    Raises:
        TypeError: The revision is neither text nor a number.
        InvalidArgumentError: The revision is no whole number, or is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"a revision is str or int, not {type(value).__name__}")
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgumentError(f"a revision is a whole number, not {text!r}")
    return text


def operation_key(text: str) -> str:
    """Checks an idempotency key, or that of one write of a batch, which has the write's place behind it; see below."""
    return idempotency_key(text, OPERATION_KEY_MAX)


def idempotency_key(text: str, most: int = IDEMPOTENCY_KEY_MAX) -> str:
    """Checks that the facade accepts an idempotency key, and returns it.

    Raises:
        TypeError: The key is no text.
        InvalidArgumentError: The key is empty, too long, or not printable ASCII.
    """
    if not _FIELD.match(text) or len(text) > most or text != text.strip():
        raise InvalidArgumentError(f"an idempotency key is 1 to {most} printable ASCII characters, not {text!r}")
    return text
