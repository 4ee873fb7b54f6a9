"""Standard output that is closed, full or not read any more: dougctl as a process, and the console of dev."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dougdb.commands.common import print_json, printable
from dougdb.streams import Speaker

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
DOUGCTL = f"{sys.executable} -P -m dougdb"
CLOSED = "dougctl: standard output cannot be written to: Bad file descriptor\n"
FULL = "dougctl: standard output cannot be written to: No space left on device\n"


def sh(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("arguments", "said"), [("--version >/dev/full", FULL), ("--version >&-", CLOSED), ("--help >/dev/full", FULL)]
)
def test_output_that_cannot_be_written_is_one_line(arguments: str, said: str) -> None:
    done = sh(f"{DOUGCTL} {arguments}")
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.seconds
def test_a_reader_that_has_seen_enough_is_no_complaint() -> None:
    done = sh(f"({DOUGCTL} --help; echo $? >&2) | :")
    assert done.stderr in ("0\n", "1\n")


def test_the_console_of_dev_goes_on_on_a_full_disk(tmp_path: Path) -> None:
    complaints = tmp_path / "complaints"
    full, told = os.open("/dev/full", os.O_WRONLY), os.open(complaints, os.O_WRONLY | os.O_CREAT)
    console = os.open(tmp_path / "console", os.O_RDWR | os.O_CREAT)
    output = os.dup(full)
    say = Speaker(output, told)
    for line in ("one", "two"):
        say(line)
    assert (
        complaints.read_text() == "dougctl: the output cannot be written (No space left on device); going on without\n"
    )
    os.dup2(console, output)
    say("three")
    say("four")
    assert (tmp_path / "console").read_text() == "(2 lines before this one could not be written)\nthree\nfour\n"
    for descriptor in (full, told, console, output):
        os.close(descriptor)


def test_the_console_of_dev_goes_on_without_a_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    say = Speaker(writer, writer)
    say("one")
    say("two")
    os.close(writer)
    say("three")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00fc", "plain \u00fc"),
        ("\x1b[31mred\x07\n", "\\x1b[31mred\\x07\\n"),
        ("\x9b1m\u202e", "\\x9b1m\\u202e"),
        ("\udcff", "\\xff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_has_no_control_characters_either(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"key": "a\x1b\x9b\x7f\u202e\udcff\u00fc"}
    print_json(document)
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable() and "\u00fc" in text
    assert json.loads(text) == document
