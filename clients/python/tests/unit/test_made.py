"""The blocking client is what ``tools/blocking.py`` makes of the one for asyncio."""

from __future__ import annotations

import runpy
from pathlib import Path

TOOL = Path(__file__).resolve().parents[4] / "tools/blocking.py"


def test_the_blocking_client_is_made_of_the_other_one() -> None:
    assert runpy.run_path(str(TOOL))["stale"]() == []
