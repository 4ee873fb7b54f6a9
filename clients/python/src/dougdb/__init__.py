"""The Python client of DougDB and the command dougctl.

``DougClient`` and ``AsyncDougClient`` speak HTTP to a facade. They know neither shards nor leaders: the facade finds
those. ``dougdb.errors`` says what a failed call means, above all whether a write may have been applied.
"""

from __future__ import annotations

from dougdb.client import AsyncDougClient, DougClient
from dougdb.errors import (
    CertificateError,
    DougdbError,
    InvalidKeyError,
    KeyNotFoundError,
    OutcomeUnknownError,
    RejectedError,
    ServerError,
    UnavailableError,
)
from dougdb.wire import ClusterStatus, Consistency, NodeStatus, Receipt, ShardStatus, Value

__version__ = "0.1.0"

__all__ = [
    "AsyncDougClient",
    "CertificateError",
    "ClusterStatus",
    "Consistency",
    "DougClient",
    "DougdbError",
    "InvalidKeyError",
    "KeyNotFoundError",
    "NodeStatus",
    "OutcomeUnknownError",
    "Receipt",
    "RejectedError",
    "ServerError",
    "ShardStatus",
    "UnavailableError",
    "Value",
    "__version__",
]
