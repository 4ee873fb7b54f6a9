"""Requests to the shards as records: commands with their idempotency tokens.

Must not know HTTP or who serves what. Invariant: the same request with the same idempotency key gives the same token,
in every facade and after every restart.

Source: docs/api.md, Exactly-once writes; doug_wire.idempotency.
"""

from __future__ import annotations

from doug_wire import idempotency
from doug_wire.command import Command, token_id


def token_of(identity: str, key: str) -> bytes:
    """The bytes by which a shard knows an idempotency key: the key with its owner, empty where clients share keys."""
    return token_id(identity, key)


def with_token(wanted: Command, identity: str, idempotency_key: str) -> Command:
    """The command with a token whose fingerprint covers everything that the command does."""
    return idempotency.with_token(wanted, identity, idempotency_key)
