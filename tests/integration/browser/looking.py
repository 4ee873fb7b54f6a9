"""What one looks at: every view in every size, in light and in dark, for people as pictures and by axe-core.

Whatever state a test gets to is judged by axe-core on a small and on a usual screen, in both schemes, and may be
nowhere wider than the screen. With ``CONSOLE_PICTURES`` set to a folder, it is kept there as a picture too, in all
sizes and both schemes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
SCHEMES = ("light", "dark")
SIZES = ((360, 740), (1280, 900), (3840, 2160))
SETTLED_MS = 700
"""So long a page is given until what moves has come to rest."""
VIEWS = {
    "cluster": "",
    "shard": "#/shard/0",
    "keys": "#/keys?key=doc%2Fjson",
    "timeline": "#/timeline",
    "slots": "#/slots",
    "graphs": "#/graphs",
    "runbook": "#/runbook/DougDBNoLeader",
    "try": "#/try",
}
VIEWS_THAT_ASK = (
    ("#/slots", "/v1/console/slots"),
    ("#/graphs", "/v1/console/history"),
    ("#/timeline?shard=0", "/v1/console/events"),
    ("#/shard/0", "/v1/console/members"),
)
"""The views that ask for something beside the states that they are sent, and for what."""


def pictures_wanted() -> bool:
    """Whether somebody wants to look."""
    return bool(os.environ.get("CONSOLE_PICTURES"))


def serious(page: Any) -> list[str]:
    """What axe-core finds that keeps people out."""
    if page.evaluate("typeof axe") == "undefined":
        # Not as a script of the page: its policy allows none but the console's own.
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:160]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def look(page: Any, pictures: Path, name: str) -> None:
    """Looks at a page as it is now, in every size and both schemes; afterwards it is as large as before."""
    before = page.viewport_size
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}"
        if pictures_wanted():
            page.wait_for_timeout(SETTLED_MS // 2)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            if width < SIZES[-1][0]:
                assert serious(page) == [], f"{name}, {width} pixels, {scheme}"
            if pictures_wanted():
                # A dialog is in the middle of the screen, wherever the page behind it was scrolled to.
                whole = width < SIZES[-1][0] and not page.locator("dialog[open]").count()
                page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png", full_page=whole)
    page.emulate_media(color_scheme="null")
    page.set_viewport_size(before)


def tour(opened: Any, pictures: Path, state: str) -> None:
    """Looks at every view, in a state of the cluster that a test has made."""
    for name, place in VIEWS.items():
        page = opened.show(place)
        page.wait_for_timeout(SETTLED_MS if pictures_wanted() else SETTLED_MS // 3)
        look(page, pictures, f"{state}-{name}")
