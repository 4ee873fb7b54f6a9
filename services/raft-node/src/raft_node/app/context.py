"""The surroundings that every part of a node is built with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raft_node.app.timeline import Timeline
from raft_node.errors import FatalError
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.rpc.security import Security
from raft_node.runtime.disk.space import SpaceWatch
from raft_node.runtime.faults import Faults
from raft_node.settings import NodeSettings
from raft_node.storage.files import DiskFileSystem


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of a node's parts.

    Attributes:
        settings: The node's settings.
        fs: The disks.
        start_id: The name of this start of the process, and of the directory of its temporary files.
        metrics: The metrics of the node.
        security: The certificates, for connections in both directions.
        timeline: The newest events of the node.
        space: Watches how much room the disks have.
        fail: Ends the node because of an error after which it may promise nothing.
        traces: The spans of sampled requests; None while tracing is off.
        faults: The faults that ``dougctl dev`` may ask for; None everywhere else.
    """

    settings: NodeSettings
    fs: DiskFileSystem
    start_id: str
    metrics: Metrics
    security: Security
    timeline: Timeline
    space: SpaceWatch
    fail: Callable[[FatalError], None]
    traces: NodeTraces | None
    faults: Faults | None
