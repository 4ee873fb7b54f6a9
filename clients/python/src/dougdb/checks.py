"""What a call is given, checked before anything is sent: a mistake of the caller is never an unknown outcome.

Pure functions. A wrong type is a ``TypeError``, a wrong value a ``ValueError``.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.request

import httpx

from dougdb.errors import InvalidKeyError

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 20
CONTENT_TYPE_BYTES_MAX = 255
OCTET_STREAM = "application/octet-stream"

_FIELD = re.compile(r"[\x20-\x7e]+\Z")

Bytes = bytes | bytearray | memoryview


def base_url(text: str) -> str:
    """A facade's URL without a slash at its end.

    Raises:
        ValueError: It is no URL with http or https and a host.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"not a URL: {text!r}: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"the URL must begin with http:// or https://, not {text!r}")
    if not url.host or url.query or url.fragment:
        raise ValueError(f"the URL is a scheme, a host, and perhaps a port and a path, not {text!r}")
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine, where no proxy may stand between."""
    host = httpx.URL(url).host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; none stands between processes of one machine."""
    parsed = httpx.URL(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parsed.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parsed.scheme) or proxies.get("all")


def value_bytes(value: object) -> bytes:
    """A value's bytes.

    Raises:
        TypeError: It is text, None, or anything else than bytes.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    hint = "; encode the text first" if isinstance(value, str) else ""
    raise TypeError(f"a value is bytes, not {type(value).__name__}{hint}")


def content_type(text: str) -> str:
    """A content type that the facade takes.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, too long, or not printable ASCII.
    """
    if not _FIELD.match(text) or len(text) > CONTENT_TYPE_BYTES_MAX:
        raise ValueError(f"a content type is printable ASCII of at most {CONTENT_TYPE_BYTES_MAX} bytes, not {text!r}")
    return text


def key_bytes(key: str | Bytes) -> bytes:
    """A key's bytes.

    Raises:
        TypeError: It is neither text nor bytes.
        InvalidKeyError: It is empty, longer than 1 KiB, or text that has no UTF-8.
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
