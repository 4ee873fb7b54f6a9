"""The pictures of the console in the documents are those of the console as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tools import pictures


def test_the_pictures_show_what_the_console_shows() -> None:
    told = "make pictures; or, if none of them would look otherwise, make pictures ARGS=--same"
    assert list(pictures.old()) == [], told
    assert {path.name for path in pictures.IMAGES.glob("console-*.png")} == {f"{name}.png" for name in pictures.VIEWS}


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the console's files, with pictures that are made of them."""
    copy, images = tmp_path / "static", tmp_path / "images"
    shutil.copytree(pictures.STATIC, copy)
    images.mkdir()
    for name in pictures.VIEWS:
        (images / f"{name}.png").write_bytes(name.encode())
    monkeypatch.setattr(pictures, "STATIC", copy)
    monkeypatch.setattr(pictures, "IMAGES", images)
    assert pictures.main(["--same"]) == 0
    assert list(pictures.old()) == []
    return copy


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("js/views/slots.js", ["console-slots.png"]),
        # Lists of changes are shown beside the keys, and where one tries a watch.
        ("js/views/changes.js", ["console-keys.png", "console-try.png"]),
        ("js/lib/chart.js", ["console-graphs.png"]),
        ("js/views/runbook.js", []),
        ("app.css", [f"{name}.png" for name in pictures.VIEWS]),
        ("js/lib/format.js", [f"{name}.png" for name in pictures.VIEWS]),
    ],
)
def test_a_picture_is_old_once_what_it_shows_was_changed(static: Path, name: str, old: list[str]) -> None:
    append(static / name, ".new {}\n" if name.endswith(".css") else "export const added = 1;\n")
    assert list(pictures.old()) == old
    assert pictures.main(["--same"]) == 0
    assert list(pictures.old()) == []


def test_a_comment_makes_no_picture_old(static: Path) -> None:
    append(static / "js/views/slots.js", "// Only words.\n/**\n * And more of them.\n */\n")
    append(static / "app.css", "/* And of these. */\n")
    assert list(pictures.old()) == []


def test_a_picture_that_was_made_by_hand_is_found(static: Path) -> None:
    (pictures.IMAGES / "console-try.png").write_bytes(b"drawn")
    assert list(pictures.old()) == ["console-try.png"]


def test_a_picture_that_nobody_noted_is_found(static: Path) -> None:
    noted = json.loads((pictures.IMAGES / pictures.MANIFEST).read_text())
    del noted["console-shard.png"]
    (pictures.IMAGES / pictures.MANIFEST).write_text(json.dumps(noted))
    assert list(pictures.old()) == ["console-shard.png"]
