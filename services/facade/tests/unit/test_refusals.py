"""What somebody is told who may not do something: facade.client.access."""

from __future__ import annotations

import pytest

from doug_wire.auth.grants import Verb
from facade.client.access import _LEAST_FIRST, ANYONE, NOBODY, check_any
from facade.errors import ForbiddenError


def test_of_several_rights_the_one_that_gives_away_least_is_named() -> None:
    with pytest.raises(ForbiddenError, match="right metrics or admin:members") as raised:
        check_any(NOBODY, (Verb.MEMBERS, Verb.METRICS))
    assert raised.value.verb == "metrics"
    with pytest.raises(ForbiddenError, match="right read or write of this key"):
        check_any(NOBODY, (Verb.WRITE, Verb.READ), b"k")
    check_any(ANYONE, (Verb.METRICS,))


def test_every_right_has_its_place() -> None:
    assert set(_LEAST_FIRST) == set(Verb)
