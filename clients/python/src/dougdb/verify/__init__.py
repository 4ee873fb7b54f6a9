"""The checker: decides whether a linearizable store can have given a history of requests and answers.

``check`` judges a history, ``smallest`` shortens a bad one, ``text_of`` and ``svg_of`` draw it. ``dougctl verify``
records histories of a running cluster. See docs/verify.md.
"""

from __future__ import annotations

from dougdb.verify.checker import Verdict, check, smallest
from dougdb.verify.history import (
    ABSENT,
    Cas,
    Compare,
    Delete,
    Get,
    Increment,
    Outcome,
    Put,
    Recorded,
    Txn,
)
from dougdb.verify.picture import svg_of, text_of

__all__ = [
    "ABSENT",
    "Cas",
    "Compare",
    "Delete",
    "Get",
    "Increment",
    "Outcome",
    "Put",
    "Recorded",
    "Txn",
    "Verdict",
    "check",
    "smallest",
    "svg_of",
    "text_of",
]
