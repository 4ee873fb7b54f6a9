"""Makes the lines of ``dougctl top``: every node in a row of at most 80 columns, with rates between two looks.

Pure functions: no terminal, no clock, no network. Invariant: an unknown figure is shown as a dash, never as 0.

Source: docs/verify.md, What happens now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from dougdb.diagnosis import mean_sync_ms
from dougdb.shapes import ClusterStatus, NodeStatus

WIDTH = 80
HOT_SLOTS = 5


class Look(NamedTuple):
    """The state of the cluster at one time.

    Attributes:
        time_s: The time of the look, by a clock that only goes forward.
        cluster: The answer of ``/v1/cluster?vitals=true``.
        partitions: The answer of ``/v1/partitions?counts=true``; None if the facade did not answer it.
    """

    time_s: float
    cluster: ClusterStatus
    partitions: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Row:
    """The row of one node. A figure that is unknown is None.

    Attributes:
        shard: The id of the node's shard.
        node: The node's name.
        role: The node's role; ``down`` if it does not answer.
        term: The node's term.
        commit: The node's commit index.
        applied: The last entry of the log that the node has applied.
        lag: How many entries ``applied`` is behind the newest commit index of the shard.
        rate: How many entries the node applied per second.
        sync_ms: The mean milliseconds of a sync of the node's log.
        heard_ms: How many milliseconds ago the node heard a leader; None on a leader.
    """

    shard: str
    node: str
    role: str
    term: int | None
    commit: int | None
    applied: int | None
    lag: int | None
    rate: float | None
    sync_ms: float | None
    heard_ms: int | None


class HotSlot(NamedTuple):
    """A slot that gets many requests.

    Attributes:
        slot: The slot's number.
        shard: The shard that owns the slot.
        rate: How many requests per second came to the slot through the facade that was asked.
    """

    slot: int
    shard: int | None
    rate: float


SORTS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "s": ("shard", lambda row: (_number(row.shard), row.node)),
    "n": ("node", lambda row: row.node),
    "o": ("role", lambda row: row.role),
    "t": ("term", lambda row: -(row.term or 0)),
    "a": ("applied", lambda row: -(row.applied or 0)),
    "l": ("lag", lambda row: -(row.lag or 0)),
    "r": ("rate", lambda row: -(row.rate or 0)),
    "f": ("fsync", lambda row: -(row.sync_ms or 0)),
}
"""By key of the keyboard: the name of an order and its sort key. Equal rows stay in the order of the shards."""

_COLUMNS = (
    ("SHARD", 5), ("NODE", -15), ("ROLE", -9), ("TERM", 6), ("COMMIT", 10), ("APPLIED", 10), ("LAG", 6), ("RATE/S", 6),
    ("FSYNC", 5),
)  # fmt: skip
"""Names and widths of the columns; those with a negative width are aligned to the left."""
_ROLES = {"unreachable": "down", "pre-candidate": "candidate"}


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (1 << 32, text)


def order_named(name: str) -> str | None:
    """The key of the keyboard for an order's name; None if there is no such order."""
    return next((key for key, (known, _) in SORTS.items() if known == name), None)


def rows_of(look: Look, before: Look | None) -> list[Row]:
    """The rows of all nodes, in the order of shards and names.

    Args:
        look: The state of the cluster.
        before: The state at the look before, for rates; None at the first look.
    """
    known = {} if before is None else {node.id: node for shard in before.cluster.shards for node in shard.nodes}
    passed_s = 0.0 if before is None else look.time_s - before.time_s
    rows = []
    for shard in look.cluster.shards:
        newest = max((node.commit_index or 0 for node in shard.nodes), default=0)
        rows += [_row(shard.id, node, newest, known.get(node.id), passed_s) for node in shard.nodes]
    return sorted(rows, key=SORTS["s"][1])


def _row(shard: str, node: NodeStatus, newest: int, before: NodeStatus | None, passed_s: float) -> Row:
    role = _ROLES.get(node.role, node.role)
    if node.role == "unreachable":
        return Row(shard, node.id, role, None, None, None, None, None, None, None)
    vitals, earlier = node.vitals or {}, None if before is None else before.vitals
    # The counts of a restarted process begin at zero again, so that no rate can be told.
    same = earlier is not None and earlier.get("uptime_ms", 0) <= vitals.get("uptime_ms", 0)
    rate = None
    if before is not None and same and passed_s > 0:
        rate = max(0.0, ((node.applied_index or 0) - (before.applied_index or 0)) / passed_s)
    return Row(
        shard,
        node.id,
        role,
        node.term,
        node.commit_index,
        node.applied_index,
        max(0, newest - (node.applied_index or 0)),
        rate,
        mean_sync_ms(vitals, earlier),
        vitals.get("leader_heard_ms"),
    )


def hot_slots(look: Look, before: Look | None, most: int = HOT_SLOTS) -> list[HotSlot]:
    """The slots with the most requests between two looks, the busiest first; those without requests are left out."""
    if before is None or look.partitions is None or before.partitions is None or look.time_s <= before.time_s:
        return []
    counts, earlier = look.partitions.get("counts") or (), before.partitions.get("counts") or ()
    if len(counts) != len(earlier):
        return []
    passed_s = look.time_s - before.time_s
    owners = look.partitions.get("slots", ())
    # If a count is lower than before, the facade was restarted.
    rates = [
        (max(0, now - then) / passed_s, slot) for slot, (now, then) in enumerate(zip(counts, earlier, strict=True))
    ]
    return [HotSlot(slot, _owner(owners, slot), rate) for rate, slot in sorted(rates, reverse=True)[:most] if rate]


def _owner(owners: Sequence[Mapping[str, Any]], slot: int) -> int | None:
    return next((each["shard"] for each in owners if each["from"] <= slot <= each["to"]), None)


def in_order(rows: Sequence[Row], key: str, *, reverse: bool = False) -> list[Row]:
    """The rows, sorted by an order of ``SORTS``."""
    ordered = sorted(rows, key=SORTS[key][1])
    return ordered[::-1] if reverse else ordered


def lines_of(look: Look, rows: Sequence[Row], hot: Sequence[HotSlot], key: str, *, keys: bool = False) -> list[str]:
    """The lines of the screen, none wider than ``WIDTH``.

    Args:
        look: The state of the cluster.
        rows: The rows of the nodes, in the order in which they are shown.
        hot: The slots that get the most requests.
        key: The key of the order, as in ``SORTS``.
        keys: Whether to explain the keys of the keyboard.
    """
    shards = look.cluster.shards
    led = sum(shard.leader is not None for shard in shards)
    nodes = [node for shard in shards for node in shard.nodes]
    up = sum(node.role != "unreachable" for node in nodes)
    facade = look.cluster.document.get("facade") or {}
    told = f"facade {facade.get('id', '-')} {facade.get('version', '')}, map {facade.get('map_epoch') or '-'}"
    lines = [f"{led} of {len(shards)} shards have a leader, {up} of {len(nodes)} nodes answer; {told}"]
    lines.append(" ".join(_cell(name, width) for name, width in _COLUMNS))
    lines += [
        " ".join(_cell(text, width) for text, (_, width) in zip(_texts(row), _COLUMNS, strict=True)) for row in rows
    ]
    slots = ", ".join(f"{each.slot} (shard {each.shard}) {each.rate:.0f}/s" for each in hot)
    lines.append(f"hot slots here: {slots or 'none'}")
    if keys:
        lines.append(f"by {SORTS[key][0]}; s n o t a l r f: order, again: the other way round; q: end")
    return [_cut(line.rstrip(), WIDTH) for line in lines]


def _texts(row: Row) -> tuple[str, ...]:
    return (
        row.shard,
        row.node,
        row.role,
        _whole(row.term, 6),
        _whole(row.commit, 10),
        _whole(row.applied, 10),
        _whole(row.lag, 6),
        "-" if row.rate is None else _whole(round(row.rate), 6),
        "-" if row.sync_ms is None else (f"{row.sync_ms:.1f}" if row.sync_ms < 1000 else _whole(round(row.sync_ms), 5)),
    )


def _whole(figure: int | None, width: int) -> str:
    """A figure in at most ``width`` columns: in thousands, millions or more if it is too long."""
    if figure is None:
        return "-"
    text = str(figure)
    for unit in "kMGT":
        if len(text) <= width:
            break
        figure //= 1000
        text = f"{figure}{unit}"
    return text


def _cell(text: str, width: int) -> str:
    return _middle(text, -width).ljust(-width) if width < 0 else text.rjust(width)


def _middle(text: str, width: int) -> str:
    """A name, without its middle if it is too long: nodes differ by the ends of their names."""
    if len(text) <= width:
        return text
    kept = width - 1
    return f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def document_of(look: Look, rows: Sequence[Row], hot: Sequence[HotSlot]) -> dict[str, Any]:
    """The document of ``dougctl top --json``."""
    return {
        "facade": look.cluster.document.get("facade"),
        "nodes": [asdict(row) for row in rows],
        "hot_slots": [each._asdict() for each in hot],
    }
