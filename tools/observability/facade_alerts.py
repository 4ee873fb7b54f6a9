"""The alerts about facades. See ``tools.observability.alerts``."""

from __future__ import annotations

from tools.observability.alert import FACADE_SHARD, OF_FACADES, SHARD, Alert, Case, facade, rising, steady

ANSWERS = 'dougdb_facade_requests_total{route!~"/(livez|readyz|metrics)"'
BY_FACADES = "sum by (namespace, job)"


def _error_ratio(window: str) -> str:
    return f'{BY_FACADES} (rate({ANSWERS},code=~"5.."}}[{window}]))\n/ {BY_FACADES} (rate({ANSWERS}}}[{window}]))'


def _answers(ok: float, failed: float, minutes: int) -> dict[str, str]:
    labels = {"route": "/v1/kv/{key}", "method": "GET", "consistency": "linearizable"}
    return {
        facade("dougdb_facade_requests_total", 0, code="200", **labels): rising(ok, minutes),
        facade("dougdb_facade_requests_total", 0, code="503", **labels): rising(failed, minutes),
    }


def _latency(slow: bool, minutes: int) -> dict[str, str]:
    labels = {"route": "/v1/kv/{key}", "method": "GET", "consistency": "linearizable"}
    name = "dougdb_facade_request_duration_seconds_bucket"
    return {
        facade(name, 0, le="0.25", **labels): rising(0 if slow else 60, minutes),
        facade(name, 0, le="1.0", **labels): rising(60, minutes),
        facade(name, 0, le="+Inf", **labels): rising(60, minutes),
    }


FACADE = [
    Alert(
        "DougDBShardUnreachable",
        f"max by ({SHARD}) (dougdb_facade_shard_reachable) == 0",
        1,
        "critical",
        "No facade reaches the leader of shard {{ $labels.shard }}.",
        "Requests for shard {{ $labels.shard }} have ended with 503 or 504 for a minute, wherever they come in.",
        Case({facade("dougdb_facade_shard_reachable", n, shard="0"): steady(0, 5) for n in range(2)}, 3, FACADE_SHARD),
        Case({facade("dougdb_facade_shard_reachable", n, shard="0"): steady(n, 5) for n in range(2)}, 3, FACADE_SHARD),
    ),
    Alert(
        "DougDBFacadeErrorsFast",
        f"(\n{_error_ratio('5m')}\n) > 0.05\nand (\n{_error_ratio('1h')}\n) > 0.05",
        2,
        "critical",
        "More than 5 % of the requests fail.",
        "The facades of {{ $labels.job }} answer more than 5 % of the requests with 5xx, now and over the last hour.",
        Case(_answers(900, 100, 70), 65, OF_FACADES),
        # There were errors for an hour, but there are none now.
        Case(
            {
                facade(
                    "dougdb_facade_requests_total",
                    code=code,
                    route="/v1/kv/{key}",
                    method="GET",
                    consistency="linearizable",
                ): values
                for code, values in (("200", rising(900, 70)), ("503", "0+100x50 5000+0x20"))
            },
            65,
            OF_FACADES,
        ),
    ),
    Alert(
        "DougDBFacadeErrorsSlow",
        f"(\n{_error_ratio('30m')}\n) > 0.01\nand (\n{_error_ratio('6h')}\n) > 0.01",
        15,
        "warning",
        "More than 1 % of the requests fail.",
        "The facades of {{ $labels.job }} answer more than 1 % of the requests with 5xx, now and over the last hours.",
        Case(_answers(900, 20, 400), 390, OF_FACADES),
        Case(_answers(900, 1, 400), 390, OF_FACADES),
    ),
    Alert(
        "DougDBFacadeSlow",
        "histogram_quantile(0.99, sum by (namespace, job, consistency, le) (\n"
        '  rate(dougdb_facade_request_duration_seconds_bucket{route="/v1/kv/{key}"}[5m])\n'
        ")) > 0.5",
        10,
        "warning",
        "Requests are slow.",
        "The 99th percentile of {{ $labels.consistency }} requests on keys is over 500 ms.",
        Case(_latency(True, 25), 20, {**OF_FACADES, "consistency": "linearizable"}),
        Case(_latency(False, 25), 20, OF_FACADES),
    ),
    Alert(
        "DougDBMapVersionSkew",
        "max by (namespace, job) (dougdb_partition_map_version)\n"
        "- min by (namespace, job) (dougdb_partition_map_version) > 0",
        5,
        "warning",
        "The facades do not have the same partition map.",
        "Facades of {{ $labels.job }} have had different versions of the partition map for five minutes.",
        Case({facade("dougdb_partition_map_version", n): steady(4 + n, 10) for n in range(2)}, 8, OF_FACADES),
        Case(
            {
                facade("dougdb_partition_map_version", 0): steady(5, 10),
                facade("dougdb_partition_map_version", 1): "4 4 4 5+0x10",
            },
            8,
            OF_FACADES,
        ),
    ),
    Alert(
        "DougDBDiscoveryStale",
        "time() - dougdb_discovery_last_success_timestamp_seconds > 600",
        0,
        "warning",
        "{{ $labels.pod }} does not learn of new addresses.",
        "{{ $labels.pod }} has had no answer from {{ $labels.source }} for ten minutes; it serves with what it knew.",
        Case(
            {facade("dougdb_discovery_last_success_timestamp_seconds", source="dns"): steady(60, 20)},
            18,
            {**OF_FACADES, "pod": "f0", "instance": "f0:1", "source": "dns"},
        ),
        Case(
            {facade("dougdb_discovery_last_success_timestamp_seconds", source="dns"): rising(60, 20)},
            18,
            OF_FACADES,
        ),
    ),
]
