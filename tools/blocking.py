"""Generates the blocking client from the one for asyncio: ``make client``; with ``--check`` it only compares.

It removes the words of asyncio from each module, token by token, so that comments and layout stay, and lets ruff format
the result. It must not know what the modules do: the parts that differ by nature are in ``runtime``, which it leaves
alone.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "clients/python/src/dougdb/aio"
TARGET = ROOT / "clients/python/src/dougdb/blocking"
BY_HAND = {"__init__.py", "runtime.py"}
NAMES = {
    "AsyncDougClient": "DougClient",
    "AsyncIterator": "Iterator",
    "AsyncLock": "Lock",
    "AsyncLocks": "Locks",
    "AsyncOperators": "Operators",
    "AsyncRanges": "Ranges",
    "AsyncSender": "Sender",
    "AsyncWatches": "Watches",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aclosing": "closing",
    "aio": "blocking",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
}
PROSE = {
    "``async with``": "``with``",
    "an ``with``": "a ``with``",
    "A client for asyncio.": "A blocking client.",
    "contextlib.aclosing": "contextlib.closing",
    "``AsyncSender``": "``Sender``",
    "``AsyncLocks.lock``": "``Locks.lock``",
    "the block is cancelled, and its end raises": "the end of the block raises",
}
HEADER = "# Made by tools/blocking.py of aio/{name}; change that, and run `make client`.\n"


def blocking(source: str, name: str) -> str:
    """The text of the blocking module for a module of ``aio``, not formatted yet."""
    tokens = []
    skip_space = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            skip_space = True
            tokens.append((token.start, token.end, ""))
            continue
        start = token.start
        if skip_space:
            # The space behind the word is removed, too.
            last_start = tokens[-1][0]
            tokens[-1] = (last_start, start, "")
            skip_space = False
        text = token.string
        if token.type == tokenize.NAME:
            text = NAMES.get(text, text)
        elif token.type == tokenize.STRING:
            for before, after in PROSE.items():
                text = text.replace(before, after)
        if text != token.string:
            tokens.append((start, token.end, text))
    return HEADER.format(name=name) + _replaced(source, tokens)


def _replaced(source: str, changes: list[tuple[tuple[int, int], tuple[int, int], str]]) -> str:
    lines = source.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    pieces, at = [], 0
    for (row, column), (end_row, end_column), text in changes:
        start, end = offsets[row - 1] + column, offsets[end_row - 1] + end_column
        pieces += [source[at:start], text]
        at = end
    return "".join([*pieces, source[at:]])


def formatted(text: str, path: Path) -> str:
    """The text as ruff formats it, with its imports in order."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        text = done.stdout
    return text


def modules() -> dict[Path, str]:
    """Every generated module, with its text."""
    made = {}
    for source in sorted(SOURCE.glob("*.py")):
        if source.name not in BY_HAND:
            target = TARGET / source.name
            made[target] = formatted(blocking(source.read_text(), source.name), target)
    return made


def stale() -> list[str]:
    """The modules that differ from the generated text, and those that have no source any more."""
    made = modules()
    strangers = [path for path in TARGET.glob("*.py") if path.name not in BY_HAND and path not in made]
    changed = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    return [path.relative_to(ROOT).as_posix() for path in (*strangers, *changed)]


def main() -> None:
    """Writes the modules, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        found = stale()
        if found:
            sys.exit(f"not what aio/ gives: {', '.join(found)}; run `make client`")
        return
    for path, text in modules().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
