"""``dougctl top``: shows every shard and node live in a terminal; without a terminal once, as lines or JSON.

``dougdb.top`` makes the lines; this module has the terminal, its keys and the clock. Invariant: however it ends, the
terminal is restored.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from dougdb.client import DougClient
from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, printable, remote
from dougdb.errors import DougdbError
from dougdb.top import SORTS, Look, document_of, hot_slots, in_order, lines_of, order_named, rows_of

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _BELOW = "\x1b[H", "\x1b[K\r\n", "\x1b[J"
_QUIT = frozenset("q\x03\x04\x1b")


@remote
def top(
    context: typer.Context,
    *,
    sort: Annotated[
        str, typer.Option("--sort", help=f"The order: {', '.join(name for name, _ in SORTS.values())}.")
    ] = SORTS["s"][0],
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=60, metavar="SECONDS", help="How often the state is read.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Read the state twice, show it once, and end, as without a terminal.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every shard and node as it is now: role, term, commit, applied, lag, rates, fsync, and hot slots.

    In a terminal it goes on until the key q; other keys change the order of the rows. Rates of slots are those of the
    facade at --url alone.
    """
    key = order_named(sort)
    if key is None:
        fail(f"there is no order {sort!r}: {', '.join(name for name, _ in SORTS.values())}", ExitCode.USAGE)
    with client_of(context) as client:
        before = _look(client)
        if as_json or once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            time.sleep(interval)
            _show_once(_look(client), before, key, as_json=as_json)
            return
        _live(client, before, key, interval)


def _look(client: DougClient) -> Look:
    cluster = client.cluster(vitals=True)
    try:
        partitions = client.partitions(counts=True)
    except DougdbError:
        partitions = None  # The facade is starting; everything else can be shown.
    return Look(time.monotonic(), cluster, partitions)


def _show_once(look: Look, before: Look, key: str, *, as_json: bool) -> None:
    rows, hot = in_order(rows_of(look, before), key), hot_slots(look, before)
    if as_json:
        print_json(document_of(look, rows, hot))
    else:
        print("\n".join(printable(line) for line in lines_of(look, rows, hot, key)))


def _live(client: DougClient, look: Look, key: str, interval_s: float) -> None:
    before: Look | None = None
    reverse, trouble = False, ""
    with _terminal() as pressed:
        while True:
            rows = in_order(rows_of(look, before), key, reverse=reverse)
            lines = lines_of(look, rows, hot_slots(look, before), key, keys=True)
            _draw([*lines, trouble] if trouble else lines)
            found = pressed(interval_s)
            if found in _QUIT:
                return
            if found in SORTS:
                reverse = not reverse if found == key else False
                key = found
                continue
            try:
                before, look, trouble = look, _look(client), ""
            except DougdbError as error:
                trouble = f"the facade does not answer: {error}"


def _draw(lines: list[str]) -> None:
    width, height = os.get_terminal_size()
    shown = [printable(line) for line in lines]
    if len(shown) > height:
        # What is at the end is worth more than the last nodes.
        shown = [*shown[: height - 3], f"... {len(shown) - height + 1} more; a higher window shows them", *shown[-2:]]
    # A line that the terminal folds would push the first ones out of it.
    sys.stdout.write(_HOME + _LINE_END.join([line[:width] for line in shown[:height]]) + "\x1b[K" + _BELOW)
    sys.stdout.flush()


@contextlib.contextmanager
def _terminal() -> Iterator[Callable[[float], str]]:
    """Switches the terminal to single keys and to its other screen for the time of the block.

    Yields a function that waits some seconds for a key; it returns an empty text if there was none.
    """
    try:
        import termios  # noqa: PLC0415 - not on Windows
        import tty  # noqa: PLC0415
    except ImportError:
        fail("there are no keys to press in this terminal: use --once", ExitCode.USAGE)
    number = sys.stdin.fileno()
    kept = termios.tcgetattr(number)

    def pressed(timeout_s: float) -> str:
        ready, _, _ = select.select([number], [], [], timeout_s)
        return os.read(number, 1).decode("latin-1") or "q" if ready else ""

    try:
        tty.setcbreak(number)
        sys.stdout.write(_ENTER)
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, kept)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
