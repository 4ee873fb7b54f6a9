"""How the copy of roles, users and tokens changes: what is too large, too new or too old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from doug.v1 import admin_pb2
from doug_wire.auth import document as documents
from doug_wire.auth.document import EMPTY, Document, Held, TokenRecord
from doug_wire.auth.grants import Grant, Verb
from facade.app.audit import KEY_CHARACTERS_MAX
from facade.client import auth_state
from facade.client.auth_state import COPY_AGE_S, ENDED_MS, USE_BYTES, AuthState
from facade.client.operators.leader_calls import TRY_S
from facade.errors import ProblemError
from facade.routes.auth import NewToken, _Users


class Leader:
    """Shard 0's leader, with what it holds."""

    id = "shard-0-0"

    def __init__(self, document: bytes = b"", revision: int = 0) -> None:
        self.held = (revision, document)
        self.after_set: Callable[[], None] = lambda: None

    async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
        return admin_pb2.GetAuthResponse(revision=self.held[0], document=self.held[1])

    async def set_auth(self, request: admin_pb2.SetAuthRequest, timeout_s: float) -> admin_pb2.SetAuthResponse:
        self.held = (request.revision, request.document)
        self.after_set()
        return admin_pb2.SetAuthResponse(revision=request.revision)


def state_with(*leaders: Leader, poll_s: float = 1.0) -> AuthState:
    """The state of a facade whose shards have these leaders."""
    shards = {number: SimpleNamespace(id=number, leader=each, leader_term=1) for number, each in enumerate(leaders)}
    return AuthState(cast(Any, SimpleNamespace(shards=shards)), poll_s)


def with_token(name: str, allow: int = 1) -> Callable[[Document], Document]:
    rest = b"p" * (500 if allow > 1 else 0)
    grants = tuple(Grant(Verb.READ, b"%04d" % number + rest) for number in range(allow))
    record = TokenRecord(f"{abs(hash(name)) % (1 << 60):016x}", b"\1" * 16, b"\2" * 32, Held(grants), 1)
    return lambda document: document.with_token(name, record)


async def test_uses_fit_whatever_was_changed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20_000
    monkeypatch.setattr(auth_state, "DOCUMENT_BYTES_MAX", most)
    leader = Leader()
    state = state_with(leader)
    count = 0
    with pytest.raises(ProblemError) as full:
        while True:
            await state.change(with_token(f"t{count}"))
            count += 1
    assert (full.value.code, full.value.status, full.value.outcome) == ("auth_full", 507, "not_applied")
    assert count > 20, "the room that is kept is more than the last token would have taken"
    spare = most - len(leader.held[1])
    assert spare >= USE_BYTES * count
    uses = dict.fromkeys(state.document.tokens, 1 << 52)
    noted = await state.change(lambda document: document.with_uses(uses), to_the_brim=True)
    assert {record.used_ms for record in noted.tokens.values()} == {1 << 52}
    left = await state.change(lambda document: document.without_token("t1"))
    assert "t1" not in left.tokens, "what makes it smaller goes on"


async def test_tokens_that_have_ended_make_room_once_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, each stayed until somebody revoked it, and a cluster with tokens for every job of a build was full."""
    monkeypatch.setattr(auth_state, "DOCUMENT_BYTES_MAX", 20_000)
    leader, now_s = Leader(), [1_000_000.0]
    state = AuthState(state_with(leader)._directory, 1.0, lambda: now_s[0])
    dropped: list[str] = []

    def short_lived(name: str) -> Callable[[Document], Document]:
        make = with_token(name)

        def ending(document: Document) -> Document:
            made = make(document)
            record = replace(made.tokens[name], expires_ms=int(now_s[0] * 1000) + 60_000)
            return replace(made, tokens={**made.tokens, name: record})

        return ending

    await state.change(with_token("lasting", 8))
    await state.change(short_lived("first"))
    await state.change(lambda document: document.with_user("token:first", "reader"))
    now_s[0] += 60 + ENDED_MS / 1000
    await state.change(short_lived("second"), dropped=dropped.extend)
    assert not dropped and "first" in state.document.tokens, "there is room"
    count = 0
    while not dropped:
        await state.change(short_lived(f"t{count}"), dropped=dropped.extend)
        count += 1
    assert dropped == ["first"] and "first" not in state.document.tokens and not state.document.users
    assert {"lasting", "second", f"t{count - 1}"} <= state.document.tokens.keys(), "they have not ended for long enough"
    with pytest.raises(ProblemError, match="no room"):
        for number in range(3):
            await state.change(short_lived(f"u{number}"), dropped=dropped.extend)
    now_s[0] += 60 + ENDED_MS / 1000
    await state.change(with_token("last"), dropped=dropped.extend)
    assert set(state.document.tokens) == {"lasting", "last"}


async def test_the_audit_log_names_all_tokens_that_have_made_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_state, "DOCUMENT_BYTES_MAX", 2600)
    now_s, told = [1e6], list[tuple[str, str]]()
    state = AuthState(state_with(Leader())._directory, 1.0, lambda: now_s[0])
    users = _Users(state, lambda caller, what, name, may: told.append((what, name)), lambda: now_s[0])
    names = [f"{'t' * 63}{number}" for number in range(7)]
    for name in names:
        await users.make_token(NewToken(name=name, allow=["read:a"], ttl="1h"))
    del told[:]
    now_s[0] += 3600 + ENDED_MS / 1000
    assert [view.expired for view in users.tokens(state.document).tokens] == [True] * len(names)
    await users.make_token(NewToken(name="new", allow=["read:" + "a" * 900], ttl="1h"))
    assert told.pop() == ("token created", "new")
    assert {what for what, _ in told} == {"ended tokens dropped"}
    assert [each for _, some in told for each in some[:KEY_CHARACTERS_MAX].split(", ")] == names
    assert [(view.name, view.expired) for view in users.tokens(state.document).tokens] == [("new", False)]


async def test_a_document_of_a_newer_format_is_a_problem() -> None:
    newer = EMPTY.encode().replace(b'"format":1', b'"format":2')
    state = state_with(Leader(newer, 3))
    with pytest.raises(ProblemError) as refused:
        await state.change(with_token("a"))
    assert (refused.value.code, refused.value.status) == ("auth_not_understood", 503)
    with capture_logs() as logs:
        await state.look()
        await state.look()
    assert [line["event"] for line in logs] == ["auth.not_understood"], "it is told once"


async def test_another_shard_that_hangs_does_not_delay_what_shard_0_tells() -> None:
    leader, hung = Leader(EMPTY.encode(), 1), asyncio.Event()

    class Hanging(Leader):
        async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
            hung.set()
            never: asyncio.Future[admin_pb2.GetAuthResponse] = asyncio.get_running_loop().create_future()
            return await never

    state = state_with(leader, Hanging(), poll_s=0.001)
    running = asyncio.create_task(state.run())
    async with asyncio.timeout(60):
        await hung.wait()
        leader.held = (2, with_token("a")(EMPTY).encode())
        while state.revision < 2:
            await asyncio.sleep(0.001)
    assert set(state.document.tokens) == {"a"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_change_is_made_by_a_new_leader_though_the_old_one_hangs() -> None:
    asked: list[float] = []
    state, new = state_with(Leader()), Leader(EMPTY.encode(), 1)

    class Hanging(Leader):
        async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
            asked.append(timeout_s)
            state._directory.shards[0].leader = cast(Any, new)
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Deadline Exceeded"
            )

    state._directory.shards[0].leader = cast(Any, Hanging())
    changed = await state.change(with_token("a"))
    assert set(changed.tokens) == {"a"}
    assert asked == [TRY_S], "it does not wait for as long as the whole change may take"


async def test_a_change_does_not_put_an_older_document_back() -> None:
    leader = Leader(EMPTY.encode(), 1)
    state = state_with(leader)
    newest = with_token("b")(with_token("a")(EMPTY))

    def look_is_faster() -> None:
        leader.held = (leader.held[0] + 1, newest.encode())
        state._take(*leader.held)

    leader.after_set = look_is_faster
    await state.change(with_token("a"))
    assert (state.revision, set(state.document.tokens)) == (3, {"a", "b"})
    assert documents.decode(leader.held[1]) == state.document


async def test_other_shards_are_told_again_and_again_and_only_while_shard_0_is_heard() -> None:
    """Their nodes judge clients by their copies, for as long as they are told that there is nothing newer."""
    zero, copy = Leader(EMPTY.encode(), 1), Leader(EMPTY.encode(), 1)
    asked = asyncio.Semaphore(0)

    async def get_auth(known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
        asked.release()
        return admin_pb2.GetAuthResponse(revision=1)

    copy.get_auth = get_auth  # type: ignore[method-assign]
    state = state_with(zero, copy, poll_s=0.001)
    running = asyncio.create_task(state.run())
    async with asyncio.timeout(60):
        for _ in range(3):
            await asked.acquire()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    state._copied.clear()
    before = asked._value
    assert state._heard_s is not None
    state._heard_s -= 2 * COPY_AGE_S
    await state.tell_copies()
    assert asked._value == before, "a facade that does not hear shard 0 says nothing of what is newest"
    await state.look()
    await state.tell_copies()
    assert asked._value == before + 1


async def test_a_new_leader_of_another_shard_is_told_in_the_next_round() -> None:
    """It serves clients of its own only once it knows that its copy is the newest."""

    class Counting(Leader):
        asked = 0

        async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
            self.asked += 1
            return await super().get_auth(known_revision, timeout_s)

    old, new = Counting(EMPTY.encode(), 1), Counting(EMPTY.encode(), 1)
    new.id = "shard-1-1"
    state = state_with(Leader(EMPTY.encode(), 1), old)
    shard: Any = state._directory.shards[1]
    await state.look()
    for _ in range(2):
        await state.tell_copies()
    assert (old.asked, new.asked) == (2, 0), "the first time for its whole copy, too"
    shard.leader = None
    await state.tell_copies()
    shard.leader = new  # Another node, of which a hint told, and no term.
    for _ in range(2):
        await state.tell_copies()
    assert (old.asked, new.asked) == (2, 1)
    shard.leader_term = 2  # The same node, after it had lost its office, or had started anew.
    for _ in range(2):
        await state.tell_copies()
    assert (old.asked, new.asked) == (2, 2)


@pytest.mark.parametrize("ahead", [0, 1, 3])
async def test_a_copy_of_another_history_is_replaced_and_until_then_not_called_the_newest(ahead: int) -> None:
    """After a restore shard 1 may know of changes that shard 0 does not; their numbers are given out again."""
    told: list[int] = []

    class Node(Leader):
        async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
            if known_revision == self.held[0]:
                told.append(known_revision)
            return await super().get_auth(known_revision, timeout_s)

        async def set_auth(self, request: admin_pb2.SetAuthRequest, timeout_s: float) -> admin_pb2.SetAuthResponse:
            assert request.revision > self.held[0]
            assert request.copy or request.expected_revision == self.held[0]
            return await super().set_auth(request, timeout_s)

    kept, lost = with_token("kept")(EMPTY), with_token("lost")(EMPTY)
    zero, copy = Leader(kept.encode(), 5), Node(lost.encode(), 5 + ahead)
    state = state_with(zero, copy)
    for _ in range(ahead + 3):
        await state.look()
        await state.tell_copies()
        assert not told or documents.decode(copy.held[1]) == kept
    assert (documents.decode(copy.held[1]), copy.held[0]) == (kept, zero.held[0])
    assert zero.held[0] == 6 + ahead, "no further than is needed"


async def test_copies_are_looked_at_again_when_shard_0_has_lost_changes() -> None:
    zero, copy = Leader(EMPTY.encode(), 5), Leader(EMPTY.encode(), 5)
    state = state_with(zero, copy)
    await state.look()
    await state.tell_copies()
    newest = with_token("a")(EMPTY).encode()
    zero.held, copy.held = (4, newest), (5, EMPTY.encode())
    for _ in range(4):
        await state.look()
        await state.tell_copies()
    assert zero.held == copy.held == (6, newest)
