"""A site of somebody else, for tests of what its pages can do with a facade."""

from __future__ import annotations

import http.server
from typing import Any, ClassVar


class ForeignSite(http.server.BaseHTTPRequestHandler):
    """It serves whatever ``page`` is, and notes the headers of whoever asks."""

    page = ""
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        body = self.page.encode()
        self.seen.append(str(self.headers))
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass
