"""``dougctl bench``: measures rates and latencies of a mix of operations on a cluster, as seen from this machine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from typing import Annotated, Any

import typer

from dougdb.bearer import headers_of
from dougdb.benchmark.histogram import Histogram, drawn, shown
from dougdb.benchmark.load import Load, Results, endpoint_of
from dougdb.benchmark.plan import Plan, Requests, parse_mix
from dougdb.checks import base_url
from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, progress, remote, tls_of, url_of
from dougdb.commands.kv import consistency_of
from dougdb.commands.timeline import duration_us
from dougdb.errors import DougdbError
from dougdb.security import verify
from dougdb.shapes import Consistency, consistency_params

PREFIX = "__dougctl_bench/"
VALUE_BYTES_MAX = 1 << 20
PROGRESS_S = 0.5
_PARTS = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))


@remote
def bench(
    context: typer.Context,
    *,
    duration: Annotated[str, typer.Option("--duration", help="How long to measure: 10s, 1m.")] = "10s",
    mix: Annotated[str, typer.Option("--mix", help="Weights of get, put, delete and increment.")] = "get=80,put=20",
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=1024, help="How many requests are under way at the same time.")
    ] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            min=0.1,
            help="Requests per second to send, however long answers take; as many as possible if left out.",
        ),
    ] = None,
    value_size: Annotated[
        int, typer.Option("--value-size", min=0, max=VALUE_BYTES_MAX, help="How many bytes a value has.")
    ] = 100,
    keys: Annotated[int, typer.Option("--keys", min=1, max=10_000_000, help="How many keys are used.")] = 1000,
    consistency: Annotated[
        Consistency, typer.Option("--consistency", help="The consistency of the reads.")
    ] = Consistency.LINEARIZABLE,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the keys at the end.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="The seed from which requests are drawn.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure how many requests per second this cluster answers, and how long each takes.

    The command writes below a prefix of its own, puts every key once first, and deletes them all at the end. With
    --rate, latencies count from the time at which a request was due, so that a stall is seen in full. The exit code is
    1 if a request failed, and 4 if none was answered.
    """
    try:
        duration_s, weights = duration_us(duration) / 1e6, parse_mix(mix)
        endpoint = endpoint_of(base_url(url_of(context)), lambda: _trust(context))
        headers = headers_of(tls_of(context).get("token"))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    if duration_s <= 0:
        fail("it needs some time", ExitCode.USAGE)
    query = "&".join(f"{name}={value}" for name, value in consistency_params(consistency_of(consistency, None)).items())
    prefix = f"{PREFIX}{secrets.token_hex(4)}/"
    plan = Plan(weights, prefix, keys, value_size, query, endpoint.name, headers)
    load = Load(endpoint, Requests(plan, seed))
    try:
        results = asyncio.run(_run(load, plan, connections, duration_s, rate))
    except OSError as error:
        fail(f"cannot reach {url_of(context)}: {error}", ExitCode.UNAVAILABLE)
    finally:
        if load.touched and not keep:
            _clean(context, prefix)
    if as_json:
        print_json(document_of(results, rate))
    else:
        print("\n".join(lines_of(results, rate)))
    if not results.answered:
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if results.failed:
        raise typer.Exit(ExitCode.FAILURE)


def _trust(context: typer.Context) -> ssl.SSLContext:
    return verify(url_of(context), tls_of(context).get("ca_file"))


async def _run(load: Load, plan: Plan, connections: int, duration_s: float, rate: float | None) -> Results:
    telling = asyncio.create_task(_tell_progress(load))
    try:
        if plan.mix.get("get"):
            await load.fill(plan.keys, connections)
        return await load.run(connections, duration_s, rate)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        progress("")


async def _tell_progress(load: Load) -> None:
    while True:
        results = load.results
        if results.answered or results.failed:
            progress(f"{results.answered} requests answered, {results.failed} failed")
        else:
            progress(f"{load.filled} keys put before the measurement")
        await asyncio.sleep(PROGRESS_S)


def _clean(context: typer.Context, prefix: str) -> None:
    with client_of(context) as client:
        try:
            while not client.delete_range(prefix=prefix).complete:
                pass  # It goes in steps.
        except DougdbError as error:
            fail(f"what was written below {prefix} could not be deleted: {error}", ExitCode.FAILURE)


def _figures(histogram: Histogram) -> dict[str, Any]:
    told = {name: round(1000 * histogram.percentile_s(part), 3) for name, part in _PARTS}
    return {
        "count": histogram.count,
        "mean_ms": round(1000 * histogram.mean_s, 3),
        **{f"{name.replace('.', '_')}_ms": value for name, value in told.items()},
        "max_ms": round(1000 * histogram.max_s, 3),
    }


def document_of(results: Results, rate: float | None) -> dict[str, Any]:
    """The results as JSON."""
    whole = results.together()
    return {
        "seconds": round(results.seconds, 3),
        "rate_asked": rate,
        "rate": round(results.answered / results.seconds, 1) if results.seconds else 0.0,
        "answered": results.answered,
        "failed": results.failed,
        "unanswered": results.failures,
        "never_begun": results.behind,
        "statuses": {str(status): count for status, count in sorted(results.statuses.items())},
        "all": _figures(whole),
        "operations": {name: _figures(each) for name, each in sorted(results.latencies.items())},
        "histogram": [{"below_ms": 1000 * upper_s, "count": count} for upper_s, count in whole.rows()],
    }


def lines_of(results: Results, rate: float | None) -> list[str]:
    """The results for people, at most 80 columns."""
    whole = results.together()
    answered = results.answered / results.seconds if results.seconds else 0.0
    asked = "" if rate is None else f" of {rate:g}/s that were due"
    lines = [f"{results.answered} requests answered in {results.seconds:.1f} s: {answered:.0f}/s{asked}"]
    if results.failed:
        told = [f"{count} with {status}" for status, count in sorted(results.statuses.items())]
        told += [f"{results.failures} without an answer"] if results.failures else []
        lines.append(f"{results.failed} FAILED: {', '.join(told)}")
    if results.behind:
        lines.append(f"{results.behind} were never begun: this cluster does not keep up with the rate")
    lines.append(f"{'':10} {'count':>9} {'mean':>8} " + " ".join(f"{name:>8}" for name, _ in _PARTS) + f" {'max':>8}")
    named = sorted(results.latencies.items())
    for name, each in (*named, ("all", whole)) if len(named) > 1 else named:
        figures = [each.mean_s, *(each.percentile_s(part) for _, part in _PARTS), each.max_s]
        lines.append(f"{name:10} {each.count:>9} " + " ".join(f"{shown(figure):>8}" for figure in figures))
    return lines + drawn(whole.rows())
