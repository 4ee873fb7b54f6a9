"""Sign-outs: never forgotten before their time, in bounded memory, and nobody else's business."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facade.app.sign_outs import ENDED_OF_ONE_MAX, PRINCIPALS_MAX, SignOuts


def size_of(sign_outs: SignOuts) -> int:
    return sum(1 + len(ended.until_s) for ended in sign_outs._ended.values())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), max_size=400))
def test_whatever_was_ended_stays_so_until_its_time_is_over(ended: list[tuple[str, int]]) -> None:
    sign_outs, known = SignOuts(), dict[tuple[str, str], float]()
    for at, (principal, lasts_s) in enumerate(ended):
        session, now_s = str(at), float(at)
        known[principal, session] = now_s + lasts_s
        sign_outs.add(principal, session, now_s + lasts_s, now_s)
        if at % 50 == 49 or at == len(ended) - 1:
            assert all(sign_outs.has(*each, until_s) for each, until_s in known.items() if until_s > now_s)
    assert size_of(sign_outs) <= 3 * (1 + ENDED_OF_ONE_MAX)


def test_those_that_end_first_make_room_and_take_only_their_principals_older_ones_with_them() -> None:
    sign_outs = SignOuts()
    for number in range(ENDED_OF_ONE_MAX):
        sign_outs.add("a", str(number), 1000.0 - number, 0.0)
    assert not sign_outs.has("a", "new", 900.0)
    sign_outs.add("a", "late", 2000.0, 0.0)
    # The one that ended first went, and stands for every session that would have ended until then.
    first_s = 1000.0 - (ENDED_OF_ONE_MAX - 1)
    assert str(ENDED_OF_ONE_MAX - 1) not in sign_outs._ended["a"].until_s
    assert sign_outs.has("a", str(ENDED_OF_ONE_MAX - 1), first_s)
    assert not sign_outs.has("a", "new", first_s + 0.5)
    assert not sign_outs.has("b", "new", first_s - 1)
    # What is over by itself goes before anything else does.
    sign_outs.add("a", "later", 2000.0, 999.5)
    assert set(sign_outs._ended["a"].until_s) == {"0", "late", "later"}
    assert not sign_outs.has("a", "new", first_s + 0.5)


def test_more_principals_than_there_is_room_for_end_the_sessions_that_end_first() -> None:
    sign_outs = SignOuts()
    for number in range(PRINCIPALS_MAX + 10):
        sign_outs.add(f"oidc:{number}", "s", 1000.0 + number, 0.0)
    assert PRINCIPALS_MAX // 2 < len(sign_outs._ended) <= PRINCIPALS_MAX
    assert all(sign_outs.has(f"oidc:{number}", "s", 1000.0 + number) for number in range(PRINCIPALS_MAX + 10))
    assert not sign_outs.has("oidc:20000", "s", 1000.0 + PRINCIPALS_MAX)
    for number in range(PRINCIPALS_MAX):
        sign_outs.add(f"cert:{number}", "s", 90_000.0, 80_000.0)
    assert all(name.startswith("cert:") for name in sign_outs._ended), "what is over by itself went first"
    assert not sign_outs.has("cert:new", "s", 80_001.0)


def test_a_principal_whose_sessions_are_all_over_is_no_obstacle() -> None:
    """The last one may run out between the look at its cookie and its end."""
    ended = SignOuts()
    for number in range(ENDED_OF_ONE_MAX + 1):
        ended.add("late", str(number), 1.0, 2.0)
    for number in range(PRINCIPALS_MAX):
        ended.add(f"p{number}", "s", 10.0, 2.0)
    assert ended.has("p0", "s", 10.0)
