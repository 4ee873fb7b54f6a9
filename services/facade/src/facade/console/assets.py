"""The files of the console, from memory: ``/ui/`` is the page, everything else lies below ``/ui/<hash of all files>/``.

The page itself is asked for again each time, and is small; browsers keep the rest for ever, since other files have
another hash. Must not know the cluster. Invariants: (1) only what was read at the start is served, whatever the path
says; (2) a page may load and run nothing but these files (its CSP says so).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from facade.client.metrics import Metrics
from facade.errors import BadRequestError
from facade.routes.raw import RawApp, RawRequest

PREFIX = b"/ui/"
STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
BASE = b"{{base}}"
"""The text in the page that stands for the folder of all other files."""

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
POLICY = (
    b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
GUARDS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
ONCE = (b"cache-control", b"no-cache")
FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
_PACKED_FROM = 1024


class Asset(NamedTuple):
    """One file, plain and compressed, with its content type and its header for caches."""

    content_type: bytes
    content: bytes
    packed: bytes
    cache: tuple[bytes, bytes]


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES and path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _asset(name: str, content: bytes, cache: tuple[bytes, bytes]) -> Asset:
    packed = gzip.compress(content, 6, mtime=0) if len(content) >= _PACKED_FROM else b""
    return Asset(TYPES[Path(name).suffix], content, packed, cache)


def load(folder: Path = STATIC) -> tuple[str, dict[bytes, Asset]]:
    """Reads the files; returns their version and, by path, what is served."""
    files = dict(_read(folder))
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    version = digest.hexdigest()[:16]
    base = PREFIX + version.encode() + b"/"
    page = files.pop(PAGE).replace(BASE, base)
    served = {base + name.encode(): _asset(name, content, FOR_EVER) for name, content in files.items()}
    served[PREFIX] = _asset(PAGE, page, ONCE)
    return version, served


class AssetsApp(RawApp):
    """``/``, ``/ui`` and what is below it."""

    route = "/ui/{path}"
    methods = frozenset({"GET", "HEAD"})

    def __init__(self, metrics: Metrics) -> None:
        """Reads all files."""
        super().__init__(metrics)
        self.version, self._served = load()

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        if request.raw_path in (b"/", b"/ui"):
            await request.answer(307, ((b"location", PREFIX), (b"content-length", b"0"), (b"vary", b"accept")))
            return
        asset = self._served.get(request.raw_path)
        if asset is None:
            raise BadRequestError("unknown_route", "The console has no such file.", status=404)
        headers = dict(request.raw_headers)
        packed = asset.packed and b"gzip" in headers.get(b"accept-encoding", b"")
        content = asset.packed if packed else asset.content
        await request.answer(
            200,
            (
                (b"content-type", asset.content_type),
                (b"content-length", b"%d" % len(content)),
                (b"vary", b"accept-encoding"),
                asset.cache,
                *GUARDS,
                *(((b"content-encoding", b"gzip"),) if packed else ()),
            ),
            b"" if request.method == "HEAD" else content,
        )
