"""Starts the systems that a run of ``make bench`` compares, and ends them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cluster import ClusterError
from bench.go_peers import EtcdGrpc, EtcdJson, Nats, Redis, start_etcd
from bench.systems import DougDB, System

ROOT = Path(__file__).resolve().parent.parent


def peers_program() -> Path | None:
    """The program with etcd, NATS and their clients, built if needed; None without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    target = ROOT / "out" / "peers"
    target.parent.mkdir(exist_ok=True)
    command = (go, "build", "-buildvcs=false", "-o", str(target), ".")
    if subprocess.run(command, cwd=ROOT / "bench" / "peers", check=False).returncode:
        raise ClusterError("bench/peers could not be built")
    return target


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path, facades: int = 1, *, needs_go: bool = False) -> Iterator[list[System]]:
    """Starts the systems with these names (``dougdb``, ``etcd``, ``etcd-json``, ``nats``, ``redis``) and ends them.

    What cannot be built or found here is left out, which is printed. With ``needs_go`` DougDB gets a Go client, too.
    """
    systems: list[System] = []
    rivals = set(names) - {"dougdb"}
    program = peers_program() if rivals or needs_go else None
    etcd_here = shutil.which("etcd")
    if program is None and (rivals or needs_go):
        beside = "DougDB alone" if etcd_here is None else f"DougDB and {etcd_here}, by its JSON gateway"
        print(f"Go is not installed: wrk measures {beside}", file=sys.stderr)
        rivals &= {"etcd", "etcd-json"} if etcd_here else set()
    if "redis" in rivals and shutil.which("redis-server") is None:
        print("redis-server is not installed (Debian: redis-server): Redis is left out", file=sys.stderr)
        rivals.discard("redis")
    try:
        if "dougdb" in names or program is None:
            systems.append(DougDB(folder, facades, program))
        if program is not None and {"etcd", "etcd-json"} & rivals:
            etcd = EtcdGrpc(program, folder)
            systems.append(etcd)
            if "etcd-json" in rivals:
                systems.append(EtcdJson(etcd.members, etcd.ports, alone=False))
        elif program is None and etcd_here is not None and rivals:
            systems.append(EtcdJson(*start_etcd((etcd_here,), folder), alone=True))
        if program is not None and "nats" in rivals:
            systems.append(Nats(program, folder))
        if program is not None and "redis" in rivals:
            systems.append(Redis(program, folder))
        yield systems
    finally:
        for system in reversed(systems):
            system.close()
