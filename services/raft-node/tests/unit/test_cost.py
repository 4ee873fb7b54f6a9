"""What a put costs in a node: how many of its own functions it enters, for each put and for each batch.

The log, the network and the store are in memory, so only the driver, the Raft core and the state machine are counted.
The limits are a tenth above what was measured when they were last set. Who makes a put cheaper lowers them; who makes
it dearer says why in the commit that raises them. ``make bench-guard`` compares CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.payload import encode_batch, encode_increment
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.raft.messages import AppendEntries
from raft_node.runtime.driver import Submission
from raft_testing.calls import counted, report
from raft_testing.driver_rig import ALL, ME, OTHER, ListSink, Rig

BATCHES = 20
SMALL, LARGE = 16, 272
PACKAGES = ("src/raft_node", "wire/doug_wire")
Make = Callable[[int, int], bytes]
"""Makes the command with a number in a batch."""


def command(number: int, turn: int = 0) -> bytes:
    return commands.encode(Opcode.PUT, b"key-%d" % number, b"", b"v" * 100)


def if_it_exists(number: int, turn: int) -> bytes:
    return commands.encode(Opcode.PUT, b"key-%d" % number, b"", b"v" * 100, condition=commands.EXISTS)


def if_it_is_new(number: int, turn: int) -> bytes:
    return commands.encode(Opcode.PUT, b"new-%d-%d" % (turn, number), b"", b"v" * 100, condition=commands.ABSENT)


def increment(number: int, turn: int) -> bytes:
    return commands.encode(Opcode.INCREMENT, b"number-%d" % number, b"", encode_increment(1))


def if_it_has_the_revision(before: int) -> Make:
    """Puts of a whole batch of keys that were put last in this order, up to this revision."""

    def make(number: int, turn: int) -> bytes:
        condition = commands.revision(before + (turn - 1) * LARGE + number + 1)
        return commands.encode(Opcode.PUT, b"key-%d" % number, b"", b"v" * 100, condition=condition)

    return make


async def lead(rig: Rig, batch: int, make: Make = command) -> Counter[str]:
    """Puts batches as a leader whose followers agree."""
    sink = ListSink()
    turns = []
    for turn in range(BATCHES):
        made = [make(number, turn) for number in range(batch)]
        turns.append([Submission(sink, number, commands.checksum(each), each) for number, each in enumerate(made)])
    with counted(*PACKAGES) as found:
        for submissions in turns:
            rig.driver.submit(submissions)
            await rig.converse()
    assert [status for _, status in sink.results] == [Status.OK] * BATCHES * batch
    return found


async def follow(rig: Rig, batch: int) -> Counter[str]:
    """Takes batches as a follower."""
    core = rig.core
    term, first = core.term, core.last_index + 1
    made = [
        entries.encode(index, term, EntryKind.COMMAND, index, command(index % batch))
        for index in range(first, first + BATCHES * batch)
    ]
    with counted(*PACKAGES) as found:
        for _ in range(BATCHES):
            last = core.last_index
            new = made[last + 1 - first : last + 1 - first + batch]
            rig.driver.receive(AppendEntries(OTHER, ME, term, last, core.log.term(last), last, new))
            await rig.finish_writes()
    assert rig.driver.applied_index == core.last_index - batch
    return found


@pytest.mark.parametrize(("put_max", "batch_max"), [pytest.param(2.2, 250.0, id="leader")])
async def test_a_leader(monkeypatch: pytest.MonkeyPatch, put_max: float, batch_max: float) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    judge(await lead(rig, SMALL), await lead(rig, LARGE), put_max, batch_max)


CONDITION_MAX = 1.3
"""What a put with a condition may cost of a plain one."""


@pytest.mark.parametrize("kind", ["exists", "absent", "revision"])
async def test_a_condition_that_is_judged_in_memory(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    plain = await lead(rig, LARGE)
    made = {"exists": if_it_exists, "absent": if_it_is_new, "revision": if_it_has_the_revision(BATCHES * LARGE)}
    found = await lead(rig, LARGE, made[kind])
    assert sum(found.values()) <= CONDITION_MAX * sum(plain.values()), report(found, BATCHES * LARGE)


async def test_a_batch_of_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    await lead(rig, LARGE)
    judge(await lead(rig, SMALL, if_it_exists), await lead(rig, LARGE, if_it_exists), CONDITION_MAX * 2.2, 270.0)


def puts(count: int) -> Make:
    """Batches of so many puts, each of which is one command."""

    def make(number: int, turn: int) -> bytes:
        return commands.encode(Opcode.BATCH, b"key-0", b"", encode_batch([command(place) for place in range(count)]))

    return make


async def test_the_puts_of_a_batch_cost_no_call_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    few, many = [sum((await lead(rig, 1, puts(count))).values()) for count in (SMALL, 250)]
    assert many - few < BATCHES, "no put more is a call more"


@pytest.mark.pure
async def test_a_command_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    found = await lead(rig, LARGE, increment)
    assert found["/wire/doug_wire/command.py:decode"] == BATCHES * LARGE, report(found, BATCHES * LARGE)


@pytest.mark.parametrize(("put_max", "batch_max"), [pytest.param(1.1, 140.0, id="follower")])
async def test_a_follower(monkeypatch: pytest.MonkeyPatch, put_max: float, batch_max: float) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.settle()
    await rig.let_lead(OTHER)
    judge(await follow(rig, SMALL), await follow(rig, LARGE), put_max, batch_max)


def judge(small: Counter[str], large: Counter[str], put_max: float, batch_max: float) -> None:
    """Two sizes of batches tell what a put costs, and what a batch does beside."""
    counts = [sum(found.values()) / BATCHES for found in (small, large)]
    put = (counts[1] - counts[0]) / (LARGE - SMALL)
    batch = counts[0] - SMALL * put
    assert put <= put_max, f"{put:.2f} for a put\n{report(large, BATCHES * LARGE)}"
    assert batch <= batch_max, f"{batch:.1f} for a batch\n{report(small, BATCHES)}"
