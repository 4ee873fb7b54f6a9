"""Both clients: the one for asyncio, written by hand, and the blocking one, which ``tools/blocking.py`` generates."""

from __future__ import annotations

from dougdb.aio.client import AsyncDougClient
from dougdb.aio.locks import AsyncLock
from dougdb.blocking.client import DougClient
from dougdb.blocking.locks import Lock
from dougdb.blocking.operators import EVENTS_MAX

__all__ = ["EVENTS_MAX", "AsyncDougClient", "AsyncLock", "DougClient", "Lock"]
