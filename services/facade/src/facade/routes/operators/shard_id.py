"""The number of a shard in a path: one spelling for each.

Python reads ``+1``, ``01`` and ``1_0`` as numbers too. If a path could name the same shard in several ways, it would
pass rules of proxies that know only one of them.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

_DECIMAL = re.compile(r"0|[1-9][0-9]*")


def _spelled(value: object) -> object:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError("a shard is a decimal number without a sign and without leading zeros")
    return value


ShardId = Annotated[int, BeforeValidator(_spelled), Path(ge=0, description="The number of a shard")]
