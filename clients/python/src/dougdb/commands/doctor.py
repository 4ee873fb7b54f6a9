"""``dougctl doctor``: finds what is wrong with a cluster, and says what to do about it.

It reads the state of nodes and members from the facades and the leaders twice, with a moment in between, so that the
speed of disks is measured now, and a third time if a node or a leader has just gone. ``dougdb.diagnosis`` makes the
findings.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from dougdb.client import DougClient
from dougdb.commands.common import (
    ExitCode,
    JsonOption,
    client_of,
    deadline_of,
    fail,
    print_json,
    printable,
    progress,
    remote,
    tls_of,
    url_of,
)
from dougdb.diagnosis import Facade, Finding, Limits, findings, in_doubt, settled
from dougdb.errors import DougdbError
from dougdb.shapes import ClusterStatus, Members

_DEFAULTS = Limits()


@remote
def doctor(
    context: typer.Context,
    *,
    lag_max: Annotated[
        int, typer.Option("--lag-max", min=0, help="By how many entries a replica may lag behind.")
    ] = _DEFAULTS.lag,
    skew_max: Annotated[
        float, typer.Option("--skew-max", min=0, metavar="MS", help="How far a clock may be from the others.")
    ] = _DEFAULTS.skew_ms,
    sync_max: Annotated[
        float, typer.Option("--sync-max", min=0, metavar="MS", help="How long a sync of a log may take on average.")
    ] = _DEFAULTS.sync_ms,
    free_min: Annotated[
        float, typer.Option("--free-min", min=0, max=100, metavar="PERCENT", help="How much of a volume must be free.")
    ] = 100 * _DEFAULTS.free,
    certificate_days: Annotated[
        float, typer.Option("--certificate-days", min=0, help="How many days certificates must still be valid.")
    ] = _DEFAULTS.certificate_days,
    facade: Annotated[list[str] | None, typer.Option("--facade", help="Another facade's URL; repeatable.")] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, max=60, metavar="SECONDS", help="How long to wait between the two looks.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong with the cluster, and say what to do.

    It finds shards without a leader or a majority, nodes that do not answer, replicas that lag or differ, slow and full
    disks, skewed clocks, certificates that expire, several versions, facades with an old map. The exit code is 1 if
    anything was found, and 4 if the facade does not answer.
    """
    limits = Limits(lag_max, skew_max, sync_max, free_min / 100, certificate_days)
    with client_of(context) as client:
        before, cluster = _looks(client, wait)
        members: dict[str, Members] = {}
        for shard in cluster.shards:
            try:
                members[shard.id] = client.members(shard.id)
            except DougdbError:
                continue  # Only a leader knows the members; a missing leader is a finding already.
    asked = [Facade(url_of(context), cluster.document.get("facade"))]
    asked += [_ask(context, url) for url in facade or ()]
    found = findings(cluster, members, limits, before=before, facades=asked)
    if as_json:
        print_json({"healthy": not found, "findings": [asdict(each) for each in found]})
    else:
        _show(cluster, len(asked), found)
    if found:
        raise typer.Exit(ExitCode.FAILURE)


def _looks(client: DougClient, wait_s: float) -> tuple[ClusterStatus, ClusterStatus]:
    """The state at two times; the second one is without what the first one did not see and may be gone at once."""
    try:
        progress(f"reading the state twice, {wait_s:g} s apart")
        before = client.cluster(vitals=True)
        time.sleep(wait_s)
        cluster = client.cluster(vitals=True)
        if in_doubt(before, cluster):
            progress("a node or a leader has just gone: reading the state a third time")
            time.sleep(wait_s)
            before, cluster = cluster, client.cluster(vitals=True)
        return before, settled(before, cluster)
    finally:
        progress("")


def _ask(context: typer.Context, url: str) -> Facade:
    try:
        with DougClient(url, deadline_s=min(deadline_of(context), 2.0), **tls_of(context)) as client:
            return Facade(url, client.cluster(vitals=True).document.get("facade"))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    except DougdbError as error:
        return Facade(url, None, str(error))


def _show(cluster: ClusterStatus, facades: int, found: list[Finding]) -> None:
    for each in found:
        print(printable(f"{each.severity.upper()}: {each.where}: {each.what}"))
        print(printable(f"    {each.way_out}"))
    if not found:
        nodes = sum(len(shard.nodes) for shard in cluster.shards)
        asked = "1 facade" if facades == 1 else f"{facades} facades"
        print(f"nothing is wrong with {len(cluster.shards)} shards, {nodes} nodes and {asked}, as far as they say")
