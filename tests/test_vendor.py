"""What others wrote for the console lies here as it was fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tools import vendor


def test_the_files_are_those_of_the_manifests() -> None:
    assert list(vendor.differences()) == []


def test_every_package_brings_its_licence() -> None:
    for package in vendor.PACKAGES:
        assert f"LICENSE.{package.name}" in package.files.values()
        assert package.version in "".join(package.files.values()) or list(package.files) == ["LICENSE"]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = vendor.Package("p", "1", "MIT", tmp_path, {"a": "p-1.js"})
    monkeypatch.setattr(vendor, "PACKAGES", (package,))
    (tmp_path / "p-1.js").write_bytes(b"code")
    facts: dict[str, Any] = {"from": "a", "integrity": vendor.integrity(b"code")}
    manifest = {"p": {"version": "1", "licence": "MIT", "integrity": "sha512-", "files": {"p-1.js": facts}}}
    (tmp_path / vendor.MANIFEST).write_text(json.dumps(manifest))
    assert list(vendor.differences()) == []
    return tmp_path


def test_a_changed_file_is_found(one: Path) -> None:
    (one / "p-1.js").write_bytes(b"cod3")
    assert list(vendor.differences()) == ["p-1.js is missing or was changed"]
    (one / "p-1.js").unlink()
    assert list(vendor.differences()) == ["p-1.js is missing or was changed"]


def test_a_file_that_nobody_named_is_found(one: Path) -> None:
    (one / "extra.js").write_bytes(b"")
    assert list(vendor.differences()) == ["extra.js is in no manifest"]
