"""``make audit``: what was not checked is never taken for sound."""

from __future__ import annotations

from typing import Any

import pytest
from tools import audit

SOUND = {"name": "a", "version": "1", "vulns": []}
KNOWN = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


def test_where_nobody_can_be_asked_it_says_that_nothing_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(lambda: audit.reachable("https://localhost:1/"), dict) == audit.NOT_CHECKED
    assert "NOT CHECKED" in capsys.readouterr().err


def test_an_audit_that_breaks_off_has_checked_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> dict[str, Any]:
        raise audit.AuditError("no such option")

    assert audit.main(lambda: "", run) == audit.NOT_CHECKED
    assert "no such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ([SOUND], 0, "1 packages, and no known vulnerability"),
        ([SOUND, KNOWN], audit.FOUND, "b 2: PYSEC-1, mended in 3"),
        ([SOUND, SKIPPED], audit.NOT_CHECKED, "1 of 2 packages, c"),
        ([KNOWN, SKIPPED], audit.FOUND, "PYSEC-1"),
        ([], audit.NOT_CHECKED, "0 of 0 packages"),
    ],
)
def test_its_exit_code_is_what_was_found(
    found: list[Any], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(lambda: "", lambda: {"dependencies": found}) == code
    told = capsys.readouterr()
    assert words in (told.err if code else told.out)
