"""``dougctl verify``: sends requests to a cluster for a while, and checks that the answers keep its promises."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from dougdb.bearer import headers_of
from dougdb.client import DougClient
from dougdb.commands.common import ExitCode, JsonOption, fail, print_json, printable, progress, remote, tls_of, url_of
from dougdb.commands.timeline import duration_us
from dougdb.verify.checker import Verdict, check, smallest
from dougdb.verify.faults import NONE, Faults, FaultsRefusedError, kinds_of
from dougdb.verify.load import TIMEOUT_S, Driver, Load
from dougdb.verify.picture import svg_of, text_of

PREFIX = "__dougctl_verify/"
BARS_WIDTH = 24
"""With it most lines of a failing history fit 80 columns."""


@remote
def verify(
    context: typer.Context,
    *,
    duration: Annotated[str, typer.Option("--duration", help="How long to send requests: 10s, 1m.")] = "60s",
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, max=64, help="How many clients ask at the same time; as many more use sessions."
        ),
    ] = 4,
    facade: Annotated[list[str] | None, typer.Option("--facade", help="Another facade's URL; repeatable.")] = None,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            metavar="KINDS",
            help="Faults to cause meanwhile in a cluster of dougctl dev: none; or kill, pause or kill,pause.",
        ),
    ] = NONE,
    svg: Annotated[Path | None, typer.Option("--svg", help="The file in which a failing history is drawn.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed from which requests are drawn.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check that the cluster is linearizable, and that sessions, bounded reads and watches see what they must.

    The command writes below a prefix of its own, and deletes it at the end. If a promise was broken, it shows the
    smallest history that proves it, and the exit code is 1. The exit code is 4 if nothing was answered.
    """
    try:
        duration_s = duration_us(duration) / 1e6
        kinds = kinds_of(faults)
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    urls = [url_of(context), *(facade or [])]
    for url in urls:
        _check_url(url, context)
    load, caused = asyncio.run(_drive(urls, tls_of(context), processes, duration_s, seed, kinds))
    if not load.answered:
        fail(f"nothing was answered at {', '.join(urls)}: {load.trouble}", ExitCode.UNAVAILABLE)
    progress(f"judging {len(load.history)} requests")
    verdict = check(load.history)
    failing = smallest(verdict.failing) if verdict.failing else ()
    progress("")
    if failing and svg is not None:
        svg.write_text(svg_of(failing, "not linearizable"))
    if as_json:
        print_json(_document(load, caused, verdict, text_of(failing, BARS_WIDTH)))
    else:
        _show(load, caused, verdict, text_of(failing, BARS_WIDTH))
    if failing or load.violations:
        raise typer.Exit(ExitCode.FAILURE)


def _check_url(url: str, context: typer.Context) -> None:
    try:
        DougClient(url, **tls_of(context)).close()
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


async def _drive(
    urls: list[str], tls: dict[str, Any], processes: int, duration_s: float, seed: int, kinds: tuple[str, ...]
) -> tuple[Load, dict[str, int]]:
    try:
        trust = ssl.create_default_context(cafile=tls["ca_file"]) if "ca_file" in tls else True
        headers = headers_of(tls.get("token"))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    except OSError as error:
        fail(f"{tls['ca_file']}: {error.strerror}", ExitCode.USAGE)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=trust, trust_env=False, headers=headers) as client:
        await _reach(client, urls)
        faults = Faults(client, urls[0], kinds, seed)
        if kinds:
            await _check_faults(faults)
        driver = Driver(client, urls, f"{PREFIX}{secrets.token_hex(4)}/", seed)
        try:
            return await driver.run(processes, duration_s, _progress, faults.run if kinds else None), faults.caused
        finally:
            progress("deleting what was written")
            await driver.clean()
            progress("")


async def _check_faults(faults: Faults) -> None:
    try:
        await faults.check()
    except FaultsRefusedError as error:
        fail(f"the facade causes no faults: {error}", ExitCode.USAGE)


async def _reach(client: httpx.AsyncClient, urls: list[str]) -> None:
    """Ends the command at once, not after all of its time, when no facade is there."""
    trouble = ""
    for url in urls:
        try:
            await client.get(f"{url.rstrip('/')}/v1/version")
        except httpx.HTTPError as error:
            trouble = str(error) or type(error).__name__
        else:
            return
    fail(f"nothing was answered at {', '.join(urls)}: {trouble}", ExitCode.UNAVAILABLE)


def _progress(load: Load) -> None:
    progress(f"{load.answered} requests answered, {load.failed} failed")


def _document(load: Load, caused: dict[str, int], verdict: Verdict, failing: str) -> dict[str, Any]:
    return {
        "good": verdict.good and not load.violations,
        "answered": load.answered,
        "failed": load.failed,
        "faults": caused,
        "checked": verdict.checked,
        "objects": verdict.objects,
        "session_reads": load.session_reads,
        "bounded_reads": load.bounded_reads,
        "watch_events": load.watched.events,
        "watch_returns": load.watched.returns,
        "watch_undecided": load.watched.undecided,
        "violations": load.violations,
        "undecided": list(verdict.undecided),
        "failing": failing,
    }


def _show(load: Load, caused: dict[str, int], verdict: Verdict, failing: str) -> None:
    print(f"{load.answered} requests answered, {load.failed} failed")
    if caused:
        print("faults caused: " + ", ".join(f"{count} {kind}" for kind, count in caused.items()))
    if failing:
        print("NOT LINEARIZABLE. The smallest history that shows it:")
        print("\n".join(printable(line) for line in failing.splitlines()))
    else:
        print(f"linearizable: {verdict.checked} requests on {verdict.objects} objects")
    for key in verdict.undecided:
        print(f"not decided, too much is unknown: {printable(key)}")
    for violation in load.violations[:20]:
        print(f"BROKEN: {printable(violation)}")
    if not load.violations:
        print(f"sessions and bounds kept: {load.session_reads} session reads, {load.bounded_reads} bounded reads")
    watched = load.watched
    if watched.undecided:
        print(f"watch not decided: {printable(watched.undecided)}")
    elif not watched.violations:
        streams = watched.returns + 1
        print(f"watch kept: {watched.events} changes told in {streams} streams, all that was acknowledged among them")
