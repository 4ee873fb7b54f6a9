"""Requests to the shards as records: commands with their idempotency tokens.

Must not know HTTP or who serves what. Invariant: the same request with the same idempotency key gives the same token,
in every facade and after every restart.

Source: DESIGN 7; doug_wire.idempotency.
"""

from __future__ import annotations

from doug_wire import idempotency
from doug_wire.command import Command, token_id

ANYONE = ""
"""The identity of clients, as long as nobody has to say who they are."""


def token_of(key: str) -> bytes:
    """What a shard knows an idempotency key by."""
    return token_id(ANYONE, key)


def with_token(wanted: Command, idempotency_key: str) -> Command:
    """The command with a token whose fingerprint covers everything that the command does."""
    return idempotency.with_token(wanted, ANYONE, idempotency_key)
