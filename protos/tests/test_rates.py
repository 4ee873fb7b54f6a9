"""The rates of clients, and the addresses by which clients are told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doug_wire.networks import host_of, network_of
from doug_wire.rates import CLIENTS_MAX, FORGOTTEN, Rate


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_lets_a_seconds_requests_come_at_once_and_tells_when_there_is_room() -> None:
    clock = Clock()
    rate = Rate(10, clock)
    assert [rate.take("a") for _ in range(12)] == [0] * 10 + [1, 1]
    assert rate.take("b") == 0
    clock.now_s += 0.1001
    assert (rate.take("a"), rate.take("a")) == (0, 1)
    assert rate.refused == 3
    off = Rate(0, clock)
    off.charge("a", 1000)
    assert not any(off.take("a", 1000) for _ in range(100))


def test_what_counts_for_many_requests_is_let_in_and_waited_for() -> None:
    """A batch may be larger than the bucket; whoever sends some has no more than the rate."""
    clock = Clock()
    rate = Rate(10, clock)
    assert rate.take("a", 50) == 0
    assert rate.take("a") == 5, "50 operations take 5 s, one of which the bucket held"
    clock.now_s += 4.05
    assert rate.take("a") == 1
    clock.now_s += 0.1
    assert rate.take("a") == 0
    rate.charge("b", 30)
    assert rate.take("b") == 3


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40), st.booleans()), max_size=60),
)
def test_nobody_gets_more_than_the_rate(per_s: int, steps: list[tuple[float, int, bool]]) -> None:
    """However much is asked for at a time: what was let in before the last request fits into the time and a bucket."""
    clock = Clock()
    rate, begun_s, taken = Rate(per_s, clock), clock.now_s, 0
    for pause_s, count, charged in steps:
        clock.now_s += pause_s
        if rate.take("a", count) == 0:
            assert taken + 1 <= per_s * (clock.now_s - begun_s + 1) + 1e-3
            taken += count
            if charged:
                rate.charge("a", count)
                taken += count


def test_what_is_kept_of_addresses_is_bounded() -> None:
    clock = Clock()
    rate = Rate(1, clock)
    for number in range(CLIENTS_MAX + 10):
        rate.take(str(number))
    assert len(rate._full_s) <= CLIENTS_MAX
    clock.now_s += 5
    for number in range(FORGOTTEN):
        rate.take(f"later {number}")
    assert len(rate._full_s) <= FORGOTTEN


def test_many_addresses_are_forgotten_at_a_time() -> None:
    """To look for one takes as long as to look for all: a request from a new address took a millisecond."""
    clock = Clock()
    rate = Rate(1, clock)
    for number in range(CLIENTS_MAX + 1):
        assert rate.take(str(number)) == 0
    assert [rate.wait(str(number)) for number in (0, FORGOTTEN - 1, FORGOTTEN, CLIENTS_MAX)] == [0, 0, 1, 1]


def test_what_another_limit_refuses_is_not_counted() -> None:
    rate = Rate(2, Clock())
    assert [rate.wait("a") for _ in range(5)] == [0] * 5
    assert [rate.take("a") for _ in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("", ""),
        ("unknown", "unknown"),
        ("no:address", "no:address"),
    ],
)
def test_an_address_of_ipv6_stands_for_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:5", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:5", "2001:db8::1"),
        ("[::1]:5", "::1"),
        ("192.0.2.1:5", "192.0.2.1"),
        ("unknown", "unknown"),
        ("unix:/a/b", "unix:/a/b"),
    ],
)
def test_the_address_in_what_grpc_says_of_a_caller(peer: str, host: str) -> None:
    assert host_of(peer) == host
