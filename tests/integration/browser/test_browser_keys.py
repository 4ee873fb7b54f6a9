"""Keys and values in the console, over real processes: read, made, changed, saved, moved and watched."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bench.cluster import Cluster, wait_for
from integration.browser.conftest import get, put
from integration.browser.looking import SETTLED_MS, look

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

ALL_OF_THESE = "select[aria-label='Do with all of these']"


@pytest.fixture(scope="module", autouse=True)
def values(values_of_every_kind: None) -> None:
    """Keys of every kind."""


def test_values_are_shown_as_what_they_are(tab: Callable[..., Any], pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/keys?key=doc%2Fjson")
    page.wait_for_selector(".json >> text='\"<b>text</b>\"'")
    # What is deeper is closed first, and everything closes.
    assert page.locator(".json-null").count() == 0
    look(page, pictures, "value-json")
    page.click(".json details details details summary")
    page.wait_for_selector(".json-null")
    look(page, pictures, "value-json-open")
    page.click(".json summary >> nth=0")
    page.wait_for_selector(".json-string", state="detached")
    look(page, pictures, "value-json-closed")
    page.click("button:text-is('Hex')")
    page.wait_for_selector("pre >> text=00000000  7b 22 61 22")
    look(page, pictures, "value-hex")
    opened.show("#/keys?key=doc%2Fbytes").wait_for_selector("pre >> text=000000f0  f0 f1")
    opened.show("#/keys?key=doc%2Fcontrol").wait_for_selector("pre >> text=00000000  00 01")
    image = opened.show("#/keys?key=doc%2Fimage").wait_for_selector("img.value")
    assert image.get_attribute("src").startswith("blob:")
    look(page, pictures, "value-image")
    page = opened.show("#/keys?consistency=eventual&key=doc%2Ftext")
    page.wait_for_selector("pre >> text=plain")
    look(page, pictures, "value-text")
    assert re.search(r"eventual read, answered by shard-\d-\d", page.inner_text(".receipt"))
    page = opened.show("#/keys")
    page.wait_for_selector("text=<img src=x onerror")
    assert page.title() == "Keys · DougDB"
    opened.check()


def test_a_key_is_made_changed_renamed_and_deleted(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input >> nth=0", "made/by hand")
    page.fill("dialog textarea", "one")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".one pre >> text=one")
    assert get(cluster, "made/by%20hand") == (200, b"one")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input >> nth=0", "made/by hand")
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector("dialog .trouble >> text=This key is there already. Nothing was changed.")
    page.keyboard.press("Escape")

    page.click("button:text-is('Edit')")
    look(page, pictures, "editor")
    page.fill(".editor label:has-text('Content type') input", "text/plain; of=\u2603")
    page.click("button:text-is('Save')")
    page.wait_for_selector(".editor .trouble >> text=Nothing was sent.")
    look(page, pictures, "editor-refused")
    page.fill(".editor label:has-text('Content type') input", "text/plain")
    page.fill(".editor textarea", "two")
    put(cluster, "made/by hand", b"theirs")
    page.click("button:text-is('Save')")
    page.wait_for_selector("text=Somebody else changed this key meanwhile.")
    look(page, pictures, "conflict")
    assert "theirs" in page.inner_text(".conflict")
    assert page.locator("button:text-is('Save')").count() == 0, "there are two ways on, and no third"
    assert get(cluster, "made/by%20hand") == (200, b"theirs"), "nothing was saved"
    page.click("button:text-is('Save mine over it')")
    page.wait_for_selector(".one pre >> text=two")
    assert get(cluster, "made/by%20hand") == (200, b"two")

    page.click("button:text-is('Rename')")
    page.fill("dialog label:has-text('New key') input", "made/renamed")
    page.click("dialog button:text-is('Rename')")
    page.wait_for_selector(".key-name >> text=made/renamed")
    assert get(cluster, "made/renamed") == (200, b"two")
    assert get(cluster, "made/by%20hand")[0] == 404

    page.wait_for_selector(".one pre >> text=two")
    put(cluster, "made/there", b"there")
    page.click("button:text-is('Rename')")
    page.fill("dialog label:has-text('New key') input", "made/there")
    page.click("dialog button:text-is('Rename')")
    page.wait_for_selector("dialog .trouble >> text=/The new key (is there already|exists)/")
    page.keyboard.press("Escape")
    page.click("button:text-is('Delete')")
    put(cluster, "made/renamed", b"three")
    page.click("dialog button:text-is('Delete')")
    page.wait_for_selector("dialog .trouble >> text=Somebody changed this key meanwhile. It was not deleted")
    page.keyboard.press("Escape")
    assert get(cluster, "made/renamed") == (200, b"three")
    page.click("button:text-is('Read again')")
    page.wait_for_selector(".one pre >> text=three")
    page.click("button:text-is('Delete')")
    page.click("dialog button:text-is('Delete')")
    page.wait_for_selector("text=Choose a key to see its value.")
    assert get(cluster, "made/renamed")[0] == 404
    refused = ("by%20hand", "renamed", "there")
    opened.check(*(f"412 /v1/kv/made%2F{name}" for name in refused), "422 /v1/txn")


@pytest.mark.parametrize(
    ("read", "typed", "stored"),
    [
        (
            b'{"id":9007199254740993,"of":[],"is":1.0,"as":"{,: }"}',
            None,
            b'{\n  "id": 9007199254740993,\n  "of": [],\n  "is": 1.0,\n  "as": "{,: }"\n}',
        ),
        (b'{\r\n"a": 1\r\n}\r\n', '{"a": 2\n}', b'{"a": 2\r\n}'),
        (b"[1]\n", "[2]\n", b"[2]\n"),
    ],
    ids=["formatted", "CRLF", "LF"],
)
def test_what_is_edited_keeps_its_numbers_and_the_ends_of_its_lines(
    open_tab: Callable[..., Any], cluster: Cluster, read: bytes, typed: str | None, stored: bytes
) -> None:
    put(cluster, "edited", read, "application/json")
    opened = open_tab(cluster)
    page = opened.show("#/keys?key=edited")
    page.wait_for_selector(".json")
    if typed is None:
        page.wait_for_selector(".json-number >> text='9007199254740993'")
    page.click("button:text-is('Edit')")
    if typed is None:
        page.click("button:text-is('Format')")
    else:
        page.fill(".editor textarea", typed)
    page.click("button:text-is('Save')")
    page.wait_for_selector(".note >> text=Saved as revision")
    assert get(cluster, "edited") == (200, stored)
    opened.check()


def test_what_is_edited_is_saved_over_nothing_that_was_not_seen(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    put(cluster, "seen/one", b"first")
    page = opened.show("#/keys?prefix=seen%2F&key=seen%2Fone")
    page.wait_for_selector(".one pre >> text=first")
    page.check("label:has-text('live') input")
    page.wait_for_selector("text=Watching:")
    page.wait_for_timeout(SETTLED_MS)
    put(cluster, "seen/one", b"second")
    page.wait_for_selector(".one pre >> text=second")
    page.wait_for_selector(".changes >> text=seen/one")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "mine, of the second")
    put(cluster, "seen/one", b"third")
    page.wait_for_selector(".changes li >> nth=1")
    page.wait_for_timeout(SETTLED_MS)
    assert [each for each in asked if each.endswith("/v1/kv/seen%2Fone")] == [], "nothing is read while one edits"
    assert page.is_disabled("button:text-is('Read again')")
    assert page.is_disabled("label:has-text('Read') select")
    page.click("button:text-is('Save')")
    page.wait_for_selector("text=Somebody else changed this key meanwhile.")
    assert get(cluster, "seen/one") == (200, b"third")
    assert page.input_value(".editor textarea") == "mine, of the second"
    page.click("button:text-is('Take what is there')")
    page.wait_for_selector(".one pre >> text=third")
    opened.check("412 /v1/kv/seen%2Fone")


def test_what_was_typed_is_there_again_for_whoever_comes_back(tab: Callable[..., Any], cluster: Cluster) -> None:
    opened = tab()
    put(cluster, "draft/one", b"first")
    page = opened.show("#/keys?prefix=draft%2F&key=draft%2Fone")
    page.wait_for_selector(".one pre >> text=first")
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "much work")
    page.click("nav >> text=Slots")
    page.wait_for_selector("h1:text-is('Slots')")
    put(cluster, "draft/one", b"second")
    page.go_back()
    page.wait_for_selector(".one pre >> text=second")
    page.click("button:text-is('Edit')")
    page.wait_for_selector("text=What you typed before is here again")
    assert page.input_value(".editor textarea") == "much work"
    page.click("button:text-is('Save')")
    page.wait_for_selector("text=Somebody else changed this key meanwhile.")
    page.click("button:text-is('Save mine over it')")
    page.wait_for_selector(".one pre >> text=much work")
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "not meant")
    page.click("button:text-is('Cancel')")
    page.click("button:text-is('Edit')")
    assert page.input_value(".editor textarea") == "much work", "who cancels means it"
    opened.check("412 /v1/kv/draft%2Fone")


def test_a_prefix_is_deleted_after_its_number_was_typed(tab: Callable[..., Any], cluster: Cluster) -> None:
    for number in range(7):
        put(cluster, f"heap/{number}", b"v")
    opened = tab()
    page = opened.show("#/keys?prefix=heap%2F")
    page.select_option("select[aria-label='Do with all of these']", "delete")
    page.wait_for_selector("dialog >> text=7 keys would go now.")
    assert page.is_disabled("dialog button:text-is('Delete them')")
    page.fill("dialog input", "7")
    page.click("dialog button:text-is('Delete them')")
    page.wait_for_selector("text=No key begins so.")
    assert get(cluster, "heap/3")[0] == 404
    opened.check()


def test_keys_go_out_of_the_console_and_come_in_again(
    tab: Callable[..., Any], cluster: Cluster, tmp_path: Path
) -> None:
    opened = tab()
    page = opened.show("#/keys?prefix=files%2F")
    uploaded = tmp_path / "all-bytes.bin"
    uploaded.write_bytes(bytes(range(256)))
    page.click("button:text-is('New key')")
    page.set_input_files("dialog input[type=file]", uploaded)
    page.click("dialog button:text-is('Create')")
    page.wait_for_selector(".key-name >> text=files/all-bytes.bin")
    assert get(cluster, "files/all-bytes.bin") == (200, bytes(range(256)))
    with page.expect_download() as downloaded:
        page.click(".one :text-is('Download')")
    assert Path(downloaded.value.path()).read_bytes() == bytes(range(256))

    put(cluster, "files/text", b'"</script>\n', "application/json")
    opened.show("#/keys?prefix=files%2F")
    page.select_option(ALL_OF_THESE, "export")
    page.wait_for_selector("dialog >> text=2 keys")
    put(cluster, "files/third", b"v")
    with page.expect_download() as exported:
        page.click("dialog button:text-is('Export')")
    page.wait_for_selector(".note >> text=Exported 3 keys.")
    assert cluster.request("DELETE", "/v1/kv/files/third").status < 300
    assert cluster.request("DELETE", "/v1/kv/files/all-bytes.bin").status < 300
    put(cluster, "files/text", b"newer")
    page.select_option(ALL_OF_THESE, "import")
    page.set_input_files("dialog input[type=file]", exported.value.path())
    page.click("dialog button:text-is('Import')")
    page.wait_for_selector(".note >> text=2 keys imported, 1 were there already.")
    assert get(cluster, "files/all-bytes.bin") == (200, bytes(range(256)))
    assert get(cluster, "files/text") == (200, b"newer")
    page.select_option(ALL_OF_THESE, "import")
    page.set_input_files("dialog input[type=file]", {"name": "x", "mimeType": "text/plain", "buffer": b"null\n"})
    page.click("dialog button:text-is('Import')")
    page.wait_for_selector("dialog .trouble >> text=Nothing was written: 1 line is no entry. Line 1: it is no JSON")
    opened.check()


def test_a_packed_value_keeps_its_bytes_encoding_and_end_wherever_it_goes(
    tab: Callable[..., Any], cluster: Cluster
) -> None:
    packed = gzip.compress(b"many words " * 20, mtime=0)
    headers = {"content-type": "text/plain", "content-encoding": "gzip"}
    assert cluster.request("PUT", "/v1/kv/packed%2Fone?ttl=1h", packed, headers).status == 200
    assert cluster.request("PUT", "/v1/kv/packed%2Fwrong", b"no gzip", headers).status == 200
    opened = tab()
    opened.show("#/keys?key=packed%2Fwrong").wait_for_selector(".one pre >> text=no gzip")
    page = opened.show("#/keys?key=packed%2Fone")
    # Some of these names belong to another shard than the first one.
    for name in ("two", "three", "four", "five"):
        page.wait_for_selector(".one pre >> text=many words many words")
        page.click("button:text-is('Rename')")
        page.fill("dialog label:has-text('New key') input", f"packed/{name}")
        page.click("dialog button:text-is('Rename')")
        page.wait_for_selector(f".key-name >> text=packed/{name}")
    page.wait_for_selector(".one pre >> text=many words many words")
    page.click("button:text-is('Rename')")
    page.fill("dialog label:has-text('New key') input", "packed/copy")
    page.check("dialog label:has-text('copy') input")
    page.click("dialog button:text-is('Copy')")
    page.wait_for_selector(".key-name >> text=packed/copy")
    for name in ("five", "copy"):
        answer = cluster.request("GET", f"/v1/kv/packed%2F{name}")
        assert (answer.status, answer.body, answer.headers["content-encoding"]) == (200, packed, "gzip"), name
        assert "doug-expires-at" in answer.headers, name
    opened.check("422 /v1/txn")


@pytest.mark.parametrize("copies", [False, True], ids=["renamed", "copied"])
def test_a_key_lives_as_long_under_its_new_name_whatever_the_clock_of_the_browser_says(
    tab: Callable[..., Any], cluster: Cluster, copies: bool
) -> None:
    assert cluster.request("PUT", "/v1/kv/lasts%2Fold?ttl=30m", b"v", {"content-type": "text/plain"}).status == 200
    opened = tab()
    opened.page.add_init_script("const now = Date.now; Date.now = () => now() + 3_600_000;")
    page = opened.show("#/keys?key=lasts%2Fold")
    page.wait_for_selector(".inline-facts >> text=/in (29|30) min/")
    page.click("button:text-is('Rename')")
    page.fill("dialog label:has-text('New key') input", "lasts/new")
    if copies:
        page.check("dialog label:has-text('copy') input")
    page.click(f"dialog button:text-is('{'Copy' if copies else 'Rename'}')")
    page.wait_for_selector(".key-name >> text=lasts/new")
    answer = cluster.request("GET", "/v1/kv/lasts%2Fnew")
    assert answer.status == 200
    left = datetime.fromisoformat(answer.headers["doug-expires-at"]) - datetime.now(UTC)
    assert 28 * 60 < left.total_seconds() < 31 * 60
    assert cluster.request("DELETE", "/v1/kv/lasts%2Fnew").status < 300
    opened.check("422 /v1/txn")


def test_many_keys_are_paged_by_the_servers(tab: Callable[..., Any], cluster: Cluster) -> None:
    lines = b"\n".join(
        json.dumps({"op": "put", "key": f"many/{number:04}", "value": "v"}).encode() for number in range(450)
    )
    answer = cluster.request("POST", "/v1/batch", lines, {"content-type": "application/x-ndjson"})
    assert answer.status == 200
    opened = tab()
    page = opened.show("#/keys?prefix=many%2F")
    page.wait_for_selector("text=Load 200 more behind these 200")
    page.click("text=Load 200 more behind these 200")
    page.click("text=Load 200 more behind these 400")
    page.wait_for_selector("text=0449")
    assert page.locator(".tree > li").count() == 450
    opened.check()


def test_changes_are_seen_as_they_happen(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    opened = tab()
    page = opened.show("#/keys?prefix=live%2F")
    page.check("label:has-text('live') input")
    page.wait_for_selector("text=Watching:")
    page.wait_for_timeout(SETTLED_MS)
    put(cluster, "live/one", b"1")
    page.wait_for_selector(".changes >> text=live/one")
    page.wait_for_selector(".tree >> text=one")
    look(page, pictures, "live-list")
    page.click(".tree >> text=one")
    page.wait_for_selector(".one pre >> text=1")
    put(cluster, "live/one", b"22")
    page.wait_for_selector(".one pre >> text=22")
    look(page, pictures, "live")

    lines = b"\n".join(
        json.dumps({"op": "put", "key": key, "value": "many"}).encode()
        for key in ["live/one", *(f"live/many/{number:03}" for number in range(300))]
    )
    assert cluster.request("POST", "/v1/batch", lines, {"content-type": "application/x-ndjson"}).status == 200
    page.wait_for_selector(".one pre >> text=many")

    opened.show("#/keys?prefix=live%2Fmany%2F")
    page.click("text=Load 200 more behind these 200")
    page.wait_for_selector(".tree >> text=299")
    page.wait_for_selector("text=Watching:")
    page.wait_for_timeout(SETTLED_MS)
    put(cluster, "live/many/300", b"v")
    page.wait_for_selector(".tree >> text=300")
    assert page.locator(".tree > li .leaf").count() == 301, "whoever has gone on to later pages stays there"
    opened.show("#/keys?prefix=live%2F&key=live%2Fone")

    written = 0

    def written_and_seen() -> bool:
        nonlocal written
        written += 1
        put(cluster, f"live/ever/{written}", b"v")
        return bool(page.locator(".tree >> text=ever/").count())

    wait_for(written_and_seen, 60.0, "the tree shows what is new though the changes never end")
    opened.check()


def test_the_keys_of_a_slot_are_shown(tab: Callable[..., Any], cluster: Cluster, pictures: Path) -> None:
    for number in range(3):
        put(cluster, f"{{cart-7}}/{number}", b"v")
    opened = tab()
    page = opened.show("#/slots")
    page.fill("input", "{cart-7}")
    page.click("button:text-is('Find')")
    page.wait_for_selector(".slot-keys >> text={cart-7}/2")
    page.wait_for_selector("code >> text=dougctl members list --shard")
    look(page, pictures, "slot-keys")
    page.click("text=/of slot \\d+, with their values/")
    page.wait_for_selector(".only-slot")
    page.click(".tree >> text={cart-7}/1")
    page.wait_for_selector(".one pre >> text=v")
    look(page, pictures, "keys-of-a-slot")
    shown = page.locator(".tree .leaf .name").all_inner_texts()
    assert {"{cart-7}/0", "{cart-7}/1", "{cart-7}/2"} <= set(shown)
    assert "doc/" not in shown, "of one slot alone"
    assert page.locator(ALL_OF_THESE).count() == 0, "what is done with a prefix is not done with these alone"
    page.click("button:text-is('All slots')")
    page.wait_for_selector(".tree >> text=doc/")
    assert page.locator(ALL_OF_THESE).count() == 1
    opened.check()


def test_a_read_in_a_session_sees_what_the_page_has_seen(tab: Callable[..., Any]) -> None:
    opened = tab()
    page = opened.show("#/keys?key=doc%2Ftext")
    page.wait_for_selector("pre >> text=plain")
    page.select_option("label:has-text('Read') select", "session")
    page.wait_for_selector(".receipt >> text=session read")
    assert "doug-session: " in page.inner_text(".one .command code")
    opened.check()
