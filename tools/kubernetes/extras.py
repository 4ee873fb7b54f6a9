"""What the cluster has only while a scenario asks for it: a metrics server, and somebody who enforces network policies.

Neither runs from the start. An API group whose server is away would be in the way of every client, and an enforcer
judges a new pod by what the API server told it, a moment later than the pod's first connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.kubernetes.layout import PODS

OBJECTS = {"metrics-server": "metrics.yaml"}
"""What the API server is told while a program runs."""
QUEUE = 100
"""Where the kernel puts packets for a verdict; that of kube-network-policies."""
QUEUES = Path("/proc/net/netfilter/nfnetlink_queue")
HERE = Path(__file__).parent


def objects(name: str) -> Path | None:
    """The file with the objects of a program; None if it has none."""
    return HERE / OBJECTS[name] if name in OBJECTS else None


def rules(name: str) -> Sequence[Sequence[str]]:
    """The packet filter's rules, without the verb, that lead packets to a program.

    kube-network-policies makes such rules in nftables, which a kernel without NFT_QUEUE refuses; these work with both.
    What goes from pod to pod is forwarded, what goes to the API server or the DNS server comes in. The node itself may
    reach every pod, as Kubernetes wants it for probes.
    """
    if name != "kube-network-policies":
        return ()
    new = ("--match", "conntrack", "--ctstate", "NEW", "--jump", "NFQUEUE", "--queue-num", str(QUEUE))
    return (("FORWARD", *new), ("INPUT", "--source", PODS, *new))


def listens(name: str, queues: Path = QUEUES) -> bool:
    """Whether a program takes what ``rules`` send to it: a packet that nobody takes is dropped."""
    if not rules(name):
        return True
    try:
        lines = queues.read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.split()[0] == str(QUEUE) for line in lines)
