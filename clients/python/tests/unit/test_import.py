"""``dougctl import``: what it takes, what it refuses, and that it never stores what did not stand in the file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import common, dump
from dougdb.dump import GROUP_BYTES, Importer, Tally
from dougdb.exported import Line
from dougdb.ranges import Entry

RUNNER = CliRunner()
HEADER = {"dougdb_export": 1}
PROBLEM = {"Content-Type": "application/problem+json"}


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    def make(url: str, **options: Any) -> DougClient:
        return DougClient(url, **options, transport=httpx.MockTransport(store.handle))

    monkeypatch.setattr(common, "DougClient", make)
    monkeypatch.setattr(dump, "DougClient", make)


def imported(*lines: object, options: tuple[str, ...] = ()) -> Any:
    """Imports lines, each a JSON document or text."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return RUNNER.invoke(app, ["import", "-", *options], input=text.encode())


def entry(key: str, **others: Any) -> dict[str, Any]:
    return {"key": key, "value": key.upper(), **others}


def page(*items: dict[str, Any], **others: Any) -> dict[str, Any]:
    told = {"items": list(items), "prefixes": [], "next_cursor": None, "complete": True, "revisions": {"0": "1"}}
    return told | others


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def stored(store: Any) -> dict[bytes, bytes]:
    return {key: value for key, (value, _) in store.values.items()}


def test_a_page_of_the_api_is_imported(store: Any) -> None:
    whole = {"revision": "7", "encoding": "utf-8", "content_type": "a/b", "expires_at": None}
    result = imported(page(entry("a", **whole), entry("b", **whole)), page(entry("c")))
    assert (result.exit_code, result.stdout.startswith("3 stored")) == (0, True), result.output
    assert stored(store) == {b"a": b"A", b"b": b"B", b"c": b"C"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (page(entry("a"), complete=False, next_cursor="AZ"), "line 1: the page is not complete, more keys follow"),
        (page(entry("a"), next_cursor="AZ"), "line 1: the page is not complete"),
        ({"items": [entry("a")]}, "line 1: the page is not complete"),
        (page(entry("a"), prefixes=["b/"]), "line 1: the page names folders"),
        (page(entry("a"), {"key": "b"}), "line 1, item 2: the entry has no value"),
        ({"items": 5, "complete": True}, 'line 1: "items" is no list'),
        ({"items": [5], "complete": True}, "line 1, item 1: not a JSON object"),
    ],
)
def test_a_page_that_is_not_whole_is_refused(store: Any, document: dict[str, Any], said: str) -> None:
    result = imported(document)
    assert (result.exit_code, said in result.stderr) == (1, True), result.output
    assert store.values == {}


def test_whoever_interrupts_an_import_does_not_wait_for_a_store_that_is_away() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"code": "no_leader", "outcome": "not_applied"}, headers=PROBLEM)

    def lines() -> Iterator[Line]:
        yield Line(1, 1 << 20, Entry(b"k", bytes(GROUP_BYTES), "7", "a/b", None, None))
        raise KeyboardInterrupt

    times = itertools.count()
    tally = Tally()
    client = DougClient("http://127.0.0.1:26000", deadline_s=0.0, transport=httpx.MockTransport(refuse))
    importer = Importer(client, tally, clock=lambda: next(times) / 1000, sleep=lambda seconds: None)
    with pytest.raises(KeyboardInterrupt):
        importer.run(lines())
    assert tally.stored == 0


def test_an_import_within_a_page_goes_on_where_it_was_cut_off(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dougdb.dump.GROUP_ENTRIES", 2)
    path = tmp_path / "page.json"
    path.write_text(json.dumps(page(*map(entry, "abc"))) + "\nnonsense, to be mended\n")
    (tmp_path / "page.json.import").write_text(json.dumps({"lines": 0, "size": path.stat().st_size}))
    refused = httpx.Response(400, json={"code": "bad", "detail": "no"})
    ok = httpx.Response(200, json={"results": [{"status": 200, "revision": "7"}] * 2})
    store.script = [ok, refused]
    assert RUNNER.invoke(app, ["import", str(path), "--concurrency", "1"]).exit_code == 1
    assert json.loads((tmp_path / "page.json.import").read_text())["lines"] == 0, "its line is not done yet"


def test_what_stands_behind_a_last_line_is_not_dropped(store: Any) -> None:
    end = {"complete": True, "count": 1}
    result = imported(HEADER, entry("a"), end, "", HEADER, entry("b"), end, entry("c"), end)
    assert (result.exit_code, set(store.values)) == (0, {b"a", b"b", b"c"}), result.output
    for behind in ("nonsense", end, {"hello": 1}):
        result = imported(HEADER, entry("a"), end, behind)
        assert (result.exit_code, "line 4" in result.stderr) == (1, True), behind
    for cut in ([HEADER, entry("b")], [entry("b")]):
        result = imported(HEADER, entry("a"), end, *cut)
        assert (result.exit_code, "its last line is missing" in result.stderr) == (1, True), cut
    result = imported(HEADER, entry("a"), HEADER, end)
    assert (result.exit_code, "line 3: another export begins" in result.stderr) == (1, True)


def test_no_export_goes_on_in_a_file_with_more_behind_it(store: Any, tmp_path: Path) -> None:
    path = tmp_path / "all.ndjson"
    assert RUNNER.invoke(app, ["export", str(path)]).exit_code == 0
    for more in (path.read_bytes(), b"nonsense\n"):
        before = path.read_bytes() + more
        path.write_bytes(before)
        result = RUNNER.invoke(app, ["export", str(path), "--resume"])
        assert (result.exit_code, "more stands behind" in result.stderr) == (2, True)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"key": "k", "value": {"a": 1}}, '"value" is text, not an object'),
        ({"key": "k", "value": ["a"]}, '"value" is text, not a list'),
        ({"key": "k", "value": None}, '"value" is text, not null'),
        ({"key": "k", "value": 1.5}, '"value" is text, not a number'),
        ({"key": "k", "value": True}, '"value" is text, not true or false'),
        ({"key": 5, "value": "v"}, '"key" is text, not a number'),
        ({"key": None, "value": "v"}, '"key" is text, not null'),
        ({"key64": 5, "value": "v"}, '"key64" is text, not a number'),
        ({"key64": "!", "value": "v"}, "not base64url"),
        ({"key": "a", "key64": "YQ", "value": "v"}, 'an entry has "key" or "key64"'),
        ({"value": "v"}, 'an entry has "key" or "key64"'),
        ({"key": "", "value": "v"}, "the key is empty"),
        ({"key": "k" * 1025, "value": "v"}, "the limit is 1024"),
        ('{"key": "\\ud800", "value": "v"}', "surrogate"),
        ({"key": "k", "value": "6869", "encoding": "hex"}, '"encoding" is utf-8 or base64, not "hex"'),
        ({"key": "k", "value": "v", "encoding": None}, '"encoding" is utf-8 or base64, not null'),
        ({"key": "k", "value": "v", "encoding": []}, '"encoding" is utf-8 or base64, not []'),
        ({"key": "k", "value": "?", "encoding": "base64"}, "line 2"),
        ({"key": "k", "value": "v", "content_type": 5}, '"content_type" is text, not a number'),
        ({"key": "k", "value": "v", "content_type": "\n"}, '"content_type"'),
        ({"key": "k", "value": "v", "content_encoding": {}}, '"content_encoding" is text'),
        ({"key": "k", "value": "v", "revision": True}, '"revision" is a whole number in quotes'),
        ({"key": "k", "value": "v", "ttl": "1h"}, 'nobody knows "ttl"'),
        ({"key": "k", "value": "v", "complete": True}, 'nobody knows "complete"'),
        ({"op": "put", "key": "k", "value": "v"}, 'nobody knows "op"'),
        ({"prefix": "p/"}, 'nobody knows "prefix"'),
        ({"key": "k", "value": "v", "expires_at": "2099-01-01T00:00:00"}, "a time needs Z or an offset"),
        ({"key": "k", "value": "v", "expires_at": "2099-01-01"}, "a time needs Z or an offset"),
        ({"key": "k", "value": "v", "expires_at": "soon"}, '"expires_at" is no time: "soon"'),
        ({"key": "k", "value": "v", "expires_at": ""}, '"expires_at" is no time: ""'),
        ({"key": "k", "value": "v", "expires_at": 5}, '"expires_at" is no time: 5'),
        ({"complete": False, "next_cursor": "A", "count": 1}, "it is not complete; 1 entry stands before it"),
        ({"complete": False, "error": {"detail": "no leader"}}, "it is not complete (no leader); 1 entry"),
        ({"complete": True, "count": "x"}, 'it counts "x"'),
        ("[" * 100_000, "line 2"),
        ("{", "stands on one line"),
    ],
)
def test_a_line_that_is_no_entry_is_refused_with_its_number(store: Any, line: Any, said: str) -> None:
    result = imported(entry("a"), line, entry("z"), options=("--json",))
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit), result.output
    assert "line 2" in result.stderr and said in result.stderr, result.stderr
    assert "the server answered" not in result.stderr
    assert stored(store) == {b"a": b"A"}, "what stands before it is stored, nothing else"
    document = json.loads(result.stdout)
    assert (document["stored"], said in document["error"]) == (1, True)


def test_a_file_that_is_cut_off_says_how_many_were_stored(store: Any) -> None:
    result = imported(HEADER, entry("a"), entry("b"))
    assert (result.exit_code, result.stdout.startswith("2 stored")) == (1, True)
    result = imported(HEADER, entry("a"), entry("b"), options=("--json",))
    assert json.loads(result.stdout)["stored"] == 2
    assert "its last line is missing" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("lost", [{"content_encoding": "gzip"}, {"expires_at": ""}])
def test_what_a_store_loses_beside_the_bytes_is_noticed(store: Any, lost: dict[str, str]) -> None:
    """The store of these tests keeps neither."""
    whole = {"encoding": "utf-8", "content_type": "a/b", "revision": "7", "expires_at": None}
    limit = {} if "expires_at" not in lost else {"expires_at": _soon()}
    result = imported(page(entry("a", **whole), entry("b", **whole | lost | limit)), options=("--verify", "--json"))
    assert result.exit_code == 1, result.output
    assert "b: the store holds other bytes, types or expiry" in result.stderr
    assert json.loads(result.stdout)["verified"] == 1


def test_what_no_store_takes_is_named_with_its_line(store: Any) -> None:
    far = entry("far", expires_at="9000-01-01T00:00:00Z")
    result = imported(entry("a"), far, {"key": "big", "value": "x" * (1 << 20) + "y"}, entry("b"), options=("--json",))
    assert result.exit_code == 1
    assert "line 2: far: it expires in more than a hundred years" in result.stderr
    assert "line 3: big: the value has 1,048,577 bytes" in result.stderr
    assert (json.loads(result.stdout)["stored"], set(store.values)) == (2, {b"a", b"b"})


def test_a_store_that_goes_away_ends_it_with_what_was_stored(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougdb.dump.GROUP_ENTRIES", 1)
    refused = httpx.Response(403, json={"code": "forbidden", "detail": "no"})
    store.script = [httpx.Response(200, json={"results": [{"status": 200, "revision": "7"}]}), refused]
    result = imported(entry("a"), entry("b"), options=("--json", "--concurrency", "1"))
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["stored"], "403" in document["error"]) == (1, True)


def test_a_file_that_has_grown_goes_on_and_another_one_is_refused(store: Any, tmp_path: Path) -> None:
    path = tmp_path / "all.ndjson"
    lines = [json.dumps(each) for each in (HEADER, entry("a"), entry("b"))]
    path.write_text("\n".join(lines) + '\n{"compl')
    assert RUNNER.invoke(app, ["import", str(path)]).exit_code == 1, "it is cut off"
    path.write_text("\n".join([*lines, json.dumps(entry("c")), json.dumps({"complete": True, "count": 3})]) + "\n")
    grown = RUNNER.invoke(app, ["import", str(path), "--resume"])
    assert (grown.exit_code, set(store.values)) == (0, {b"a", b"b", b"c"}), grown.output
    path.write_text("\n".join(lines) + '\n{"compl')
    assert RUNNER.invoke(app, ["import", str(path)]).exit_code == 1
    path.write_text("\n".join([lines[0], json.dumps(entry("x")), *lines[2:]]) + '\n{"complete":true,"count":2}\n')
    other = RUNNER.invoke(app, ["import", str(path), "--resume"])
    assert (other.exit_code, "belongs to another file" in other.output) == (2, True), other.output
