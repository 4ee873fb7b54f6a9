"""Lines for a terminal that the console offers: each is run as it stands, by a shell, against the real cluster."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bench.cluster import Cluster
from integration.browser.conftest import Tab, get, new_token, put, sign_in
from integration.browser.looking import VIEWS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]

RUN_S = 60
LINE = ".command code"
ODD = 'it\'s "odd" $HOME `id` %41 {a,b}[1-2] !x @y \\ ~\nü&?#;+'
KEYS = {
    "odd": ODD.encode(),
    "up": b"../../kv/up",
    "dots": b"..",
    "double": b"//a//",
    "bytes": b"no text \xff\xfe\0",
    "option": b"-X",
    "action": b"a:increment",
}
VALUE = "$(id) 'one' \"two\" \\ @three\n%41"


class Done(NamedTuple):
    """What a line did."""

    code: int
    out: bytes


def run(line: str, folder: Path, **variables: str) -> Done:
    """Runs a line in a shell, in a folder of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=RUN_S, check=False
    )
    return Done(done.returncode, done.stdout)


def line_of(page: Any, where: str) -> str:
    """The line that is offered there, as the button copies it."""
    (line,) = page.locator(f"{where} {LINE}").all_inner_texts()
    return str(line)


def named(key: bytes) -> str:
    """A key, as a link to the console names it."""
    return "key=b64:" + base64.urlsafe_b64encode(key).decode().rstrip("=")


def stored(cluster: Cluster, key: bytes, body: bytes | None = None) -> tuple[int, bytes]:
    """Reads or writes a key by its bytes."""
    path = f"/v1/kv?key64={base64.urlsafe_b64encode(key).decode().rstrip('=')}"
    headers = {"content-type": "text/plain"}
    answer = cluster.request("GET", path) if body is None else cluster.request("PUT", path, body, headers)
    return answer.status, answer.body


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_lines_read_change_and_delete_the_key_that_is_shown(
    tab: Callable[..., Tab], cluster: Cluster, tmp_path: Path, key: bytes
) -> None:
    assert stored(cluster, key, VALUE.encode())[0] == 200
    opened = tab()
    for mode in ("linearizable", "bounded", "eventual", "session"):
        page = opened.show(f"#/keys?consistency={mode}&{named(key)}")
        page.wait_for_selector(f".receipt >> text={mode} read")
        assert run(line_of(page, ".one"), tmp_path) == (0, VALUE.encode()), mode
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", VALUE + " changed")
    change = line_of(page, ".editor")
    assert "revision" in json.loads(run(change, tmp_path).out)
    assert stored(cluster, key) == (200, VALUE.encode() + b" changed")
    assert json.loads(run(change, tmp_path).out)["code"] == "precondition_failed", "of the revision that was seen alone"
    page.click("button:text-is('Cancel')")
    page.wait_for_selector(".one pre >> text=changed")
    page.click("button:text-is('Delete')")
    assert run(line_of(page, "dialog"), tmp_path).code == 0
    assert stored(cluster, key)[0] == 404
    assert opened.complaints == []


def test_a_line_makes_a_key_once(tab: Callable[..., Tab], cluster: Cluster, tmp_path: Path) -> None:
    opened = tab()
    page = opened.show("#/keys")
    page.click("button:text-is('New key')")
    page.fill("dialog label:has-text('Key') input >> nth=0", "lines/it's $new")
    page.fill("dialog textarea", VALUE)
    page.fill("dialog label:has-text('Expires in') input", "10m")
    line = line_of(page, "dialog")
    assert "revision" in json.loads(run(line, tmp_path).out)
    answer = cluster.request("GET", "/v1/kv/lines%2Fit%27s%20%24new")
    assert (answer.status, answer.body, "doug-expires-at" in answer.headers) == (200, VALUE.encode(), True)
    assert json.loads(run(line, tmp_path).out)["code"] == "precondition_failed"
    # What a terminal would take for keys when it is pasted, and what is long, comes from a file.
    for body in (b"\x1b[201~\x03\necho", b"long " * 1000):
        page.fill("dialog textarea", body.decode())
        page.fill("dialog label:has-text('Key') input >> nth=0", f"lines/{len(body)}")
        line = line_of(page, "dialog")
        assert line.isprintable()
        (tmp_path / "FILE").write_bytes(body)
        run(line, tmp_path)
        assert get(cluster, f"lines/{len(body)}") == (200, body)
    opened.check()


def test_lines_list_count_export_and_delete_a_prefix(tab: Callable[..., Tab], cluster: Cluster, tmp_path: Path) -> None:
    prefix = "many 'of' $these/"
    for name in ("a", "b", "deep/c"):
        put(cluster, prefix + name, b"v")
    put(cluster, "many others", b"stays")
    opened = tab()
    page = opened.show("#/keys?prefix=many%20%27of%27%20%24these%2F")
    page.wait_for_selector(".tree >> text=deep/")
    listed = json.loads(run(line_of(page, ".list"), tmp_path).out)
    assert [each["key"] for each in listed["items"]] == [prefix + "a", prefix + "b"]
    assert listed["prefixes"] == [prefix + "deep/"]

    def offered(what: str) -> Done:
        page.select_option("select[aria-label='Do with all of these']", what)
        page.wait_for_selector("dialog >> text=3 keys")
        done = run(line_of(page, "dialog"), tmp_path)
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        return done

    assert json.loads(offered("count").out)["count"] == 3
    assert [json.loads(line).get("key") for line in offered("export").out.splitlines()[:-1]] == [
        prefix + "a", prefix + "b", prefix + "deep/c",
    ]  # fmt: skip
    assert json.loads(offered("delete").out)["deleted"] == 3
    assert get(cluster, "many%20others") == (200, b"stays")
    opened.check()


def test_lines_of_whoever_signed_in_take_the_token_of_a_variable(
    open_tab: Callable[..., Tab], strict: Cluster, tmp_path: Path
) -> None:
    put(strict, "lines/one", b"v")
    token = new_token(strict, "copies", "read:*", "write:*")
    opened = open_tab(strict)
    sign_in(opened, token)
    page = opened.show("#/keys?prefix=lines%2F&key=lines%2Fone")
    page.wait_for_selector(".one pre >> text=v")
    line = line_of(page, ".one")
    assert token not in page.content()
    assert run(line, tmp_path, DOUGDB_TOKEN=token) == (0, b"v")
    assert json.loads(run(line, tmp_path).out)["code"] == "unauthenticated"
    page.click("button:text-is('Edit')")
    page.fill(".editor textarea", "by a line")
    assert "revision" in json.loads(run(line_of(page, ".editor"), tmp_path, DOUGDB_TOKEN=token).out)
    assert strict.request("GET", "/v1/kv/lines%2Fone").body == b"by a line"
    assert opened.complaints == []


def test_every_line_of_every_view_runs(tab: Callable[..., Tab], cluster: Cluster, tmp_path: Path) -> None:
    opened = tab()
    lines = set()
    for place in [*VIEWS.values(), "#/shard/0"]:
        page = opened.show(place)
        if place == "#/slots":
            page.locator("svg.grid").click()
        page.wait_for_selector("main")
        if page.locator("button:text-is('Add a member')").count():
            page.click("button:text-is('Add a member')")
        lines.update(page.locator(LINE).all_inner_texts())
    assert [line for line in lines if not line.startswith(("curl ", "dougctl ", "kill -9 "))] == []
    assert len([line for line in lines if line.startswith("curl ")]) >= 7
    program = f"{sys.executable} -m dougdb"
    for line in sorted(lines):
        if line.startswith("dougctl "):
            # Whatever its help can be asked for is there, with all of its options.
            assert run(line.replace("dougctl", program, 1) + " --help", tmp_path).code == 0, line
        elif line.startswith("curl -N"):
            assert run(line.replace("curl", "curl --max-time 2", 1), tmp_path).code == 28, "it goes on"
        elif line.startswith("curl "):
            assert run(line.replace("curl", "curl --silent --fail-with-body", 1), tmp_path).code in (0, 22), line
    opened.check("404 /v1/kv/doc%2Fjson")
