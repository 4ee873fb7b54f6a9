"""The token that a client sends: an argument, or of the environment. Must not know what a token allows."""

from __future__ import annotations

import os

VARIABLE = "DOUGDB_TOKEN"


def headers_of(token: str | None) -> dict[str, str]:
    """The header ``Authorization`` with a token; empty without a token.

    Args:
        token: The token; None for that of the environment variable DOUGDB_TOKEN, empty for no token.

    Raises:
        ValueError: The text cannot be a token.
    """
    found = os.environ.get(VARIABLE, "").strip() if token is None else token.strip()
    if not found:
        return {}
    if not found.isascii() or not found.isprintable() or " " in found:
        raise ValueError("the token holds what no token can; is it cut off, or more than the token?")
    return {"Authorization": f"Bearer {found}"}
