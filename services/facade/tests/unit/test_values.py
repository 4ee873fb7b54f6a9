"""What a browser may do with a stored value: facade.routes.values."""

from __future__ import annotations

import pytest

from facade.routes.values import guards


@pytest.mark.parametrize(
    "content_type",
    [
        *(
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "application/xhtml+xml",
            "image/svg+xml",
            "text/xml",
            "application/xml",
        ),
        *("text/javascript", "application/x-javascript", "application/pdf", "multipart/x-mixed-replace; boundary=b"),
        *("application/rss+xml", "application/x-shockwave-flash", "message/rfc822", "application/xml"),
    ],
)
def test_what_may_run_is_a_download(content_type: str) -> None:
    assert dict(guards(content_type.encode()))[b"content-disposition"] == b"attachment"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json", "application/octet-stream", "image/png", "text/csv; a=html"]
)
def test_what_does_not_is_shown_without_rights(content_type: str) -> None:
    assert dict(guards(content_type.encode())) == {
        b"content-security-policy": b"sandbox; default-src 'none'",
        b"x-content-type-options": b"nosniff",
        b"cross-origin-resource-policy": b"same-origin",
    }
