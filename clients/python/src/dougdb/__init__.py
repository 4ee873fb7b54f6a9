"""The Python client of DougDB and the command dougctl.

``DougClient`` and ``AsyncDougClient`` speak HTTP to a facade. They know neither shards nor leaders: the facade finds
those. ``dougdb.errors`` says what a failed call means, above all whether a write may have been applied.
"""

from __future__ import annotations

from dougdb.calls import Counter, OperationState
from dougdb.client import AsyncDougClient, AsyncLock, DougClient, Lock
from dougdb.errors import (
    CertificateError,
    ClientClosedError,
    CounterOverflowError,
    CrossShardError,
    DougdbError,
    ForeignSessionError,
    HistoryGoneError,
    IdempotencyFullError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    KeyReusedError,
    LockLostError,
    LockTimeoutError,
    NotANumberError,
    OutcomeUnknownError,
    PreconditionFailedError,
    RejectedError,
    ServerError,
    UnavailableError,
    WaitTimeoutError,
)
from dougdb.leases import Holder
from dougdb.operations import Compare, Delete, Get, Increment, Put, Result, Touch, TxnResult
from dougdb.ranges import Deletion, Entry, Page
from dougdb.shapes import ClusterStatus, Consistency, NodeStatus, Receipt, ShardStatus, Value, bounded
from dougdb.watches import Change

__version__ = "0.2.0"

__all__ = [
    "AsyncDougClient",
    "AsyncLock",
    "CertificateError",
    "Change",
    "ClientClosedError",
    "ClusterStatus",
    "Compare",
    "Consistency",
    "Counter",
    "CounterOverflowError",
    "CrossShardError",
    "Delete",
    "Deletion",
    "DougClient",
    "DougdbError",
    "Entry",
    "ForeignSessionError",
    "Get",
    "HistoryGoneError",
    "Holder",
    "IdempotencyFullError",
    "Increment",
    "InvalidArgumentError",
    "InvalidKeyError",
    "KeyNotFoundError",
    "KeyReusedError",
    "Lock",
    "LockLostError",
    "LockTimeoutError",
    "NodeStatus",
    "NotANumberError",
    "OperationState",
    "OutcomeUnknownError",
    "Page",
    "PreconditionFailedError",
    "Put",
    "Receipt",
    "RejectedError",
    "Result",
    "ServerError",
    "ShardStatus",
    "Touch",
    "TxnResult",
    "UnavailableError",
    "Value",
    "WaitTimeoutError",
    "__version__",
    "bounded",
]
