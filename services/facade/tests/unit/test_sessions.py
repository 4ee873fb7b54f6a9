"""Session tokens: golden bytes, what they promise when they are merged, cut down or foreign, and what is none."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facade.client.sessions import TOKEN_BYTES_MAX, Seen, Session, Sessions, entry_of
from facade.errors import BadRequestError


def sessions(cluster: bytes = b"c0ffee", epoch: int = 3) -> Sessions:
    made = Sessions()
    made.know(cluster, epoch)
    return made


def test_golden_bytes() -> None:
    token = sessions().issue(2, 300)
    raw = base64.urlsafe_b64decode(token + b"=" * (-len(token) % 4))
    # The SHA-256 of "c0ffee" begins so; then the CRC, epoch 3, shard 2, index 300.
    assert raw.hex() == "0100" + "fb0288872031fc48" + "10775f27" + "03" + "02" + "ac02"
    assert sessions().read(token) == Session(3, {2: 300})
    assert token == GOLDEN


GOLDEN = b"AQD7AoiHIDH8SBB3XycDAqwC"


def test_nothing_is_issued_before_the_map_is_known() -> None:
    assert Sessions().issue(0, 1) == Sessions().add(None, [Seen(0, 1, True)]) == b""


def test_a_token_never_promises_less_than_before() -> None:
    made = sessions()
    first = made.read(made.add(None, [Seen(0, 10, True), Seen(1, 7, False)]))
    assert dict(first.indexes) == {0: 10, 1: 7}
    second = made.read(made.add(first, [Seen(0, 4, False)]))
    assert dict(second.indexes) == {0: 10, 1: 7}, "an older replica takes nothing back"
    assert list(second.indexes) == [1, 0], "the shard that was used last is the last one"
    assert (second.demand(0), second.demand(1), second.demand(2)) == (10, 7, 0)


def test_a_token_keeps_the_newest_map() -> None:
    older, newer = sessions(epoch=3), sessions(epoch=5)
    session = older.read(newer.issue(0, 1))
    assert session.epoch == 5
    assert older.read(older.add(session, [])).epoch == 5
    assert newer.read(newer.add(newer.read(older.issue(0, 1)), [])).epoch == 5


@pytest.mark.parametrize("shards", [40, 60, 1000])
def test_a_token_of_many_shards_stays_short_and_right(shards: int) -> None:
    made = sessions()
    session: Session | None = None
    for shard in range(shards):
        token = made.add(session, [Seen(shard, 10**9 + shard, True)])
        assert len(token) <= TOKEN_BYTES_MAX
        session = made.read(token)
    assert session is not None
    for shard in range(shards):
        assert session.demand(shard) in (10**9 + shard, None), "a shard that is left out is never taken for unknown"
    assert session.demand(shards - 1) is not None
    assert session.partial is (shards > 60)


def test_a_partial_token_learns_of_a_shard_only_from_what_leaves_nothing_out() -> None:
    made = sessions()
    session = made.read(made.add(Session(3, {}, partial=True), [Seen(4, 9, False)]))
    assert session.demand(4) is None, "an eventual read may have come from a replica that is far behind"
    session = made.read(made.add(session, [Seen(4, 9, True)]))
    assert session.demand(4) == 9


def test_a_token_of_another_cluster_is_refused() -> None:
    with pytest.raises(BadRequestError) as caught:
        sessions(b"restored").read(sessions().issue(0, 1))
    assert (caught.value.status, caught.value.code) == (409, "foreign_session")


@pytest.mark.parametrize("place", range(len(GOLDEN)))
def test_every_changed_character_is_noticed(place: int) -> None:
    changed = bytes((GOLDEN[place] ^ 1,))
    with pytest.raises(BadRequestError):
        sessions().read(GOLDEN[:place] + changed + GOLDEN[place + 1 :])


@given(st.binary(max_size=600))
def test_what_is_no_token_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequestError):
        sessions().read(text)


@given(
    st.integers(0, (1 << 64) - 1),
    st.dictionaries(st.integers(0, 1023), st.integers(0, (1 << 64) - 1), max_size=20),
)
def test_round_trip(epoch: int, indexes: dict[int, int]) -> None:
    made = sessions(epoch=0)
    session = made.read(made.add(Session(epoch, indexes), []))
    assert (session.epoch, dict(session.indexes), session.partial) == (epoch, indexes, False)


def test_a_token_from_before_a_shard_was_recovered_is_refused() -> None:
    made = sessions()
    before, other = made.issue(0, 10), made.issue(1, 10)
    made.heard(0, 1)
    with pytest.raises(BadRequestError) as refused:
        made.read(before)
    assert (refused.value.status, refused.value.code) == (409, "foreign_session")
    assert made.read(other).demand(1) == 10, "of another shard nothing is lost"
    after = made.read(made.issue(0, entry_of(1, 4)))
    assert after.demand(0) == 4
    assert not made.is_foreign(after)
    made.heard(0, 0)
    with pytest.raises(BadRequestError):
        made.read(before)


def test_a_token_from_before_is_never_made_a_newer_one_on_the_way() -> None:
    """A facade may not have heard of the recovery when the request came."""
    made = sessions()
    before = made.read(made.issue(0, 10))
    token = made.add(before, [Seen(0, entry_of(1, 99), True)])
    made.heard(0, 1)
    with pytest.raises(BadRequestError):
        made.read(token)


def test_a_restored_cluster_counts_generations_anew() -> None:
    made = sessions()
    made.heard(0, 1)
    made.know(b"another", 1)
    assert made.read(made.issue(0, 3)).demand(0) == 3
