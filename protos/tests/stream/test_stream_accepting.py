"""A listener goes on whatever becomes of one connection, and does not end unseen."""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import pairwise
from typing import Any

import pytest

from doug_stream import accepting
from doug_stream.accepting import FAILED, Pace, accepted, raise_error


class FakeLoop:
    """Has some accepts fail before one succeeds."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)

    async def sock_accept(self, listener: socket.socket) -> tuple[str, str]:
        if self._errors:
            raise OSError(self._errors.pop(0), "it is so")
        return "a connection", "an address"


class FakeListener:
    """Nobody else waits at it."""

    def accept(self) -> Any:
        raise BlockingIOError


async def accept(*errors: int) -> Any:
    loop: Any = FakeLoop(*errors)
    listener: Any = FakeListener()
    return list(await accepted(loop, listener))


@pytest.mark.parametrize(
    "error",
    [errno.EMFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH, errno.ENETDOWN],
)
async def test_the_error_of_one_connection_ends_nothing(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "TRY_AGAIN_S", 0.0)
    assert await accept(error, error) == [("a connection", "an address")]


async def test_a_listener_that_cannot_be_used_is_told_to_the_loop() -> None:
    with pytest.raises(OSError, match="it is so"):
        await accept(errno.EBADF)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["handle"]))
    task = asyncio.create_task(accept(errno.EBADF))
    task.add_done_callback(raise_error)
    gone = asyncio.create_task(asyncio.Event().wait())
    gone.add_done_callback(raise_error)
    gone.cancel()
    await asyncio.wait((task, gone))
    await asyncio.sleep(0)
    assert len(told) == 1


async def test_few_go_on_in_a_turn_in_the_order_in_which_they_came() -> None:
    """Hundreds of handshakes in one turn had a node that led lose its office, for whoever sent their first messages."""
    pace, gone = Pace(2), list[int]()

    async def go(number: int) -> None:
        await pace.turn("one")
        gone.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(9)]
    seen = []
    for turn in range(12):
        await asyncio.sleep(0)
        seen.append(len(gone))
        if turn == 1:
            tasks[5].cancel()
    assert gone == [0, 1, 2, 3, 4, 6, 7, 8]
    assert max(after - before for before, after in pairwise([0, *seen])) == 2
    assert not pace._turns, "and nothing goes on when nobody waits"
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pace.turn("one")
    assert not pace._waiting


async def test_who_comes_from_another_network_waits_behind_no_crowd() -> None:
    """3,072 handshakes of a stranger had each peer of a node wait for longer than it tries: nobody could reconnect."""
    pace, gone = Pace(2), list[str]()

    async def go(network: str) -> None:
        await pace.turn(network)
        gone.append(network)

    tasks = [asyncio.create_task(go("crowd")) for _ in range(300)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(go(network)) for network in ("peer", "peer", "facade")]
    while "facade" not in gone or gone.count("peer") < 2:
        await asyncio.sleep(0)
    assert len(gone) <= 2 + 6 + 2, "those of the first turn, and each of three networks in turn"
    await asyncio.gather(*tasks)
    assert not pace._waiting


async def test_few_of_a_network_are_under_way_and_what_fails_takes_the_place_of_others() -> None:
    """The second message of a handshake, a chain of certificates, took a node 60 ms, and many could come together."""
    pace, gone = Pace(4, 2), list[str]()

    async def go(network: str) -> None:
        await pace.turn(network)
        gone.append(network)

    tasks = [asyncio.create_task(go("crowd")) for _ in range(9)]
    for _ in range(9):
        await asyncio.sleep(0)
    assert gone == ["crowd"] * 2 and not pace._turns, "nothing turns while they are under way"
    await pace.turn("peer")
    pace.over("peer")
    pace.over("crowd")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gone == ["crowd"] * 3
    pace.over("crowd", failed=True)
    turns = 0
    while len(gone) < 4:
        await asyncio.sleep(0)
        turns += 1
    assert turns > FAILED
    while len(gone) < 9:
        pace.over("crowd")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    for _ in range(2):
        pace.over("crowd")
    assert not (pace._waiting or pace._held or pace._under_way)


async def test_a_turn_that_is_given_up_just_as_it_comes_leaves_its_place() -> None:
    pace = Pace(4, 1)
    await pace.turn("one")
    task = asyncio.create_task(pace.turn("one"))
    await asyncio.sleep(0)
    pace.over("one")
    pace._next(asyncio.get_running_loop())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and not pace._under_way
    async with asyncio.timeout(60):
        await pace.turn("one")


async def test_who_says_nothing_keeps_others_of_its_address_out_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 silent connections kept a client of the same address waiting until their handshakes timed out, ten seconds."""
    pace, never = Pace(8, 2), asyncio.Event()
    ends: list[str] = []

    async def go(name: str) -> None:
        await pace.turn("nat")
        try:
            if name.startswith("silent"):
                await never.wait()
            ends.append(name)
        except asyncio.CancelledError:
            ends.append(f"{name} is given up")
            raise
        finally:
            pace.over("nat", failed=not ends or ends[-1] != name)

    silent = [asyncio.create_task(go(f"silent {number}")) for number in range(2)]
    await asyncio.sleep(0)
    late = asyncio.create_task(go("late"))
    for _ in range(9):
        await asyncio.sleep(0)
    assert not ends and list(pace._timers) == ["nat"], "they have not been under way for long"
    monkeypatch.setattr(accepting, "PLACE_S", 0.0)
    pace._timers["nat"].cancel()
    pace._look_again("nat")
    await late
    assert ends == ["silent 0 is given up", "late"]
    assert pace._gone_on <= 2, "what was silent cost no turns"
    never.set()
    await asyncio.gather(*silent, return_exceptions=True)
    assert not (pace._waiting or pace._held or pace._under_way or pace._since or pace._given_up or pace._timers)
