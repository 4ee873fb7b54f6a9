"""``dougctl timeline``: shows the events of all nodes in one order.

The order is by the nodes' wall clocks, then by name; a node's own events keep their order. If clocks disagree by more
than a message takes, an effect may stand before its cause; the terms then show which was first.
"""

from __future__ import annotations

import heapq
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from dougdb.client import EVENTS_MAX, DougClient
from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, printable, remote
from dougdb.errors import UnavailableError
from dougdb.shapes import Event, Timeline

FOLLOW_S = 1.0
"""How often ``--follow`` reads the events."""
OVERLAP_US = 10_000_000
"""How far ``--follow`` reads back behind the newest event seen: clocks disagree, and slow nodes answer late."""
REMEMBERED_MAX = 100_000

_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d)\Z")
_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def duration_us(text: str) -> int:
    """Microseconds of a duration such as ``10m``.

    Raises:
        ValueError: The text is no duration.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"a duration is a number with ms, s, m, h or d, such as 10m, not {text!r}")
    return int(match[1]) * _UNITS_US[match[2]]


@remote
def timeline(
    context: typer.Context,
    *,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, help="The shard to show; all shards if left out.")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="How far to look back: 90s, 10m, 2h, 1d.")] = "10m",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=EVENTS_MAX, help="How many events of a shard at most, the newest.")
    ] = EVENTS_MAX,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the nodes did and why: elections, leaders, stalls, slow disks, starts and stops.

    With --follow and --json it prints one JSON object per line.
    """
    try:
        since_us = max(0, time.time_ns() // 1000 - duration_us(since))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    with client_of(context) as client:
        shards = [str(shard)] if shard is not None else [found.id for found in client.cluster().shards]
        timelines = [client.events(number, since_us=since_us, limit=limit) for number in shards]
        if not follow:
            _show(timelines, as_json=as_json)
            if not as_json and not any(found.events for found in timelines):
                print(f"nothing happened in the last {since}; --since looks further back", file=sys.stderr)
            return
        _follow(client, shards, timelines, since_us, as_json=as_json)


def merge(timelines: Sequence[Timeline]) -> Iterator[Event]:
    """The events of several shards in one order; each timeline keeps its own."""

    def keyed(timeline: Timeline) -> Iterator[tuple[int, str, int, Event]]:
        newest_us = 0
        for place, event in enumerate(timeline.events):
            newest_us = max(newest_us, event.time_us)
            yield newest_us, event.shard, place, event

    return (event for *_, event in heapq.merge(*(keyed(timeline) for timeline in timelines)))


def line_of(event: Event) -> str:
    """One event as a line for people."""
    moment = datetime.fromtimestamp(event.time_us / 1e6, UTC).isoformat(timespec="milliseconds")
    details = " ".join(f"{name}={_value(value)}" for name, value in event.details.items())
    repeated = ""
    if event.count > 1:
        repeated = f"  ({event.count} times in {(event.last_time_us - event.time_us) / 1e6:.1f} s)"
    text = (
        f"{moment.replace('+00:00', 'Z')}  {event.node:<12} term {event.term:<5} {event.name:<20} {details}{repeated}"
    )
    return printable(text).rstrip()


def _value(value: object) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(_value(part) for part in value) or "-"
    text = value if isinstance(value, str) else json.dumps(value)
    # Whatever a node says, it stays one line.
    return json.dumps(text) if not text.isprintable() or " " in text else text


def _show(timelines: Sequence[Timeline], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "events": [{"shard": int(event.shard), **event.document} for event in merge(timelines)],
                "unreachable": [node for timeline in timelines for node in timeline.unreachable],
                "cut": any(timeline.cut for timeline in timelines),
            }
        )
        return
    for event in merge(timelines):
        print(line_of(event))
    sys.stdout.flush()
    if any(timeline.cut for timeline in timelines):
        print("older events were left out; --limit allows more of each shard", file=sys.stderr)
    for timeline in timelines:
        _name_unreachable(timeline.unreachable)


def _name_unreachable(nodes: Sequence[str]) -> None:
    if nodes:
        print(f"not reachable, so that their events are missing: {printable(', '.join(nodes))}", file=sys.stderr)


def _follow(
    client: DougClient, shards: Sequence[str], timelines: Sequence[Timeline], since_us: int, *, as_json: bool
) -> None:
    """Reads and prints new events again and again. An event that repeats is shown at its first occurrence."""
    shown: dict[tuple[str, str, int], None] = {}
    missing: tuple[str, ...] = ()
    while True:
        for event in merge(timelines):
            if event.identity not in shown:
                shown[event.identity] = None
                since_us = max(since_us, event.time_us - OVERLAP_US)
                document = {"shard": int(event.shard), **event.document}
                if as_json:
                    print_json(document, indent=None)
                else:
                    print(line_of(event))
        sys.stdout.flush()
        now_missing = tuple(node for timeline in timelines for node in timeline.unreachable)
        if now_missing != missing:
            missing = now_missing
            _name_unreachable(missing)
        while len(shown) > REMEMBERED_MAX:
            del shown[next(iter(shown))]
        time.sleep(FOLLOW_S)
        timelines = _look_again(client, shards, since_us)


def _look_again(client: DougClient, shards: Sequence[str], since_us: int) -> list[Timeline]:
    try:
        return [client.events(number, since_us=since_us) for number in shards]
    except UnavailableError as error:
        print(f"dougctl: {printable(str(error))}; trying again", file=sys.stderr)
        return []
