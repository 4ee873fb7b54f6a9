"""The judge of histories: what it must find, what it must allow, and that it agrees with trying all orders."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from raft_testing.history import History, Operation
from raft_testing.linearizability import check_history


def put(value: str, call: float, returned: float | None, *, key: str = "k", ok: bool = True) -> Operation:
    return Operation(key, "put", value, call, returned, ok)


def get(value: str | None, call: float, returned: float | None, *, key: str = "k") -> Operation:
    return Operation(key, "get", value, call, returned)


def whats(*operations: Operation) -> list[str]:
    return [violation.what for violation in check_history(operations)]


def test_an_empty_history_is_linearizable() -> None:
    assert whats() == []


def test_reads_follow_the_writes() -> None:
    assert whats(get(None, 0, 1), put("a", 2, 3), get("a", 4, 5), put("b", 6, 7), get("b", 8, 9)) == []


def test_a_stale_read_is_found() -> None:
    (what,) = whats(put("a", 0, 1), put("b", 2, 3), get("a", 4, 5))
    assert "cannot be ordered" in what


def test_a_stale_read_of_the_absent_value_is_found() -> None:
    (what,) = whats(put("a", 0, 1), get(None, 2, 3))
    assert "cannot be ordered" in what


def test_a_lost_write_is_found_by_any_later_read() -> None:
    assert whats(put("a", 0, 1), put("b", 2, 3), get("b", 4, 5), put("c", 6, 7), get("b", 8, 9)) != []


def test_reads_that_go_back_and_forth_are_found() -> None:
    history = [put("a", 0, 10), put("b", 0, 10), get("a", 1, 2), get("b", 3, 4), get("a", 5, 6)]
    assert whats(*history) != []


def test_concurrent_operations_may_be_ordered_either_way() -> None:
    assert whats(put("a", 0, 10), put("b", 0, 10), get("a", 1, 2), get("b", 3, 4), get("b", 20, 21)) == []
    assert whats(put("a", 0, 10), put("b", 0, 10), get("b", 20, 21), get("b", 22, 23)) == []


def test_a_return_and_a_call_at_the_same_time_are_concurrent() -> None:
    assert whats(put("a", 0, 1), get(None, 1, 2)) == []


def test_an_unknown_write_may_take_effect_late_or_never() -> None:
    assert whats(put("a", 0, 1), put("b", 2, None), get("a", 100, 101), get("b", 200, 201)) == []
    assert whats(put("a", 0, 1), put("b", 2, None), get("a", 100, 101)) == []


def test_an_unknown_write_takes_effect_once() -> None:
    history = [put("a", 0, 1), put("b", 2, None), get("b", 3, 4), put("c", 5, 6), get("b", 7, 8)]
    assert whats(*history) != []


def test_a_refused_write_must_not_be_seen() -> None:
    assert whats(put("a", 0, 1, ok=False), get("a", 2, 3)) == ["a refused put was read"]
    assert whats(put("a", 0, 1, ok=False), get(None, 2, 3)) == []


def test_a_value_from_nowhere_is_found() -> None:
    assert whats(get("z", 0, 1)) == ["a value that nobody wrote was read"]


def test_a_read_from_the_future_is_found() -> None:
    assert whats(get("a", 0, 1), put("a", 2, 3)) == ["a value was read before it was written"]


def test_keys_are_independent() -> None:
    violations = check_history([put("a", 0, 1, key="x"), get(None, 2, 3, key="y"), get(None, 4, 5, key="x")])
    assert [violation.key for violation in violations] == ["x"]
    assert "get 'x' None [4, 5]" in str(violations[0])


def test_writing_a_value_twice_is_the_callers_mistake() -> None:
    with pytest.raises(AssertionError, match="written twice"):
        check_history([put("a", 0, 1), put("a", 2, 3)])


def test_the_recorder_tells_unknown_from_refused() -> None:
    history = History()
    first = history.begin(1, "put", "k", "a", 0)
    second = history.begin(1, "put", "k", "b", 1)
    read = history.begin(2, "get", "k", None, 2)
    history.refuse(second, 3)
    history.succeed(read, 4, "a")
    assert (first.returned, second.ok, read.value, history.unknown) == (None, False, "a", 1)
    assert check_history(history.operations) == []


def brute_force(operations: list[Operation]) -> bool:
    """Tries all orders, with and without each unknown put."""
    fixed = [o for o in operations if o.ok and (o.kind == "put" or o.returned is not None)]
    unknown = [o for o in fixed if o.returned is None]
    certain = [o for o in fixed if o.returned is not None]
    for chosen in range(1 << len(unknown)):
        subset = certain + [o for place, o in enumerate(unknown) if chosen >> place & 1]
        if any(_legal(order) for order in permutations(subset)):
            return True
    return False


def _legal(order: tuple[Operation, ...]) -> bool:
    value, latest_call = None, float("-inf")
    for operation in order:
        if operation.returned is not None and operation.returned < latest_call:
            return False
        latest_call = max(latest_call, operation.call)
        if operation.kind == "put":
            value = operation.value
        elif operation.value != value:
            return False
    return True


def random_history(chance: random.Random) -> list[Operation]:
    values: list[str | None] = [None]
    operations: list[Operation] = []
    for number in range(chance.randint(2, 6)):
        call = chance.randrange(8)
        returned = call + chance.randrange(5)
        if chance.random() < 0.5:
            values.append(f"v{number}")
            unknown = chance.random() < 0.2
            refused = not unknown and chance.random() < 0.1
            operations.append(put(f"v{number}", call, None if unknown else returned, ok=not refused))
        else:
            operations.append(get(None, call, None if chance.random() < 0.05 else returned))
    for operation in operations:
        if operation.kind == "get":
            operation.value = chance.choice(values)
    return operations


def test_it_agrees_with_trying_all_orders() -> None:
    chance = random.Random(20261123)
    verdicts = [0, 0]
    for _ in range(1500):
        operations = random_history(chance)
        expected = brute_force(operations)
        assert (check_history(operations) == []) is expected, "\n".join(map(str, operations))
        verdicts[expected] += 1
    assert min(verdicts) > 200, verdicts


def test_a_long_history_of_one_key_is_judged() -> None:
    operations = []
    for number in range(10_000):
        operations.append(put(f"v{number}", 3 * number, 3 * number + 4))
        operations.append(get(f"v{number}", 3 * number + 1, 3 * number + 5))
    assert check_history(operations) == []
    operations.append(get("v5000", 40_000, 40_001))
    (violation,) = check_history(operations)
    assert "'v5000'" in violation.what
