"""The common parts of the dashboards' expressions: the choice of series, and their names.

A series is named by shard and pod; see docs/metrics.md, Labels. Every expression returns something on a healthy cluster
that has served a request, so that an empty panel means something.
"""

from __future__ import annotations

from tools.observability.grafana import Query, Variable

WHERE = 'namespace=~"$namespace", job=~"$job"'
NODES = f'{WHERE}, shard=~"$shard"'
SHARD = "namespace, job, shard"
NODE = "namespace, job, shard, pod, instance"
RATE = "[$__rate_interval]"
BY_NODE = "shard {{shard}} {{pod}}"
BY_SHARD = "shard {{shard}}"
BY_POD = "{{pod}}"

NAMESPACE = Variable("namespace", "label_values(dougdb_build_info, namespace)", "Namespace")
JOB = Variable("job", 'label_values(dougdb_build_info{namespace=~"$namespace"}, job)', "Job")
OF_NODES = Variable("shard", f"label_values(dougdb_raft_term{{{WHERE}}}, shard)", "Shard")
OF_FACADES = Variable("shard", f"label_values(dougdb_facade_shard_reachable{{{WHERE}}}, shard)", "Shard")


def node(name: str, more: str = "") -> str:
    """A metric of the chosen nodes."""
    return f"{name}{{{NODES}{', ' + more if more else ''}}}"


def facade(name: str, more: str = "") -> str:
    """A metric of the chosen facades."""
    return f"{name}{{{WHERE}{', ' + more if more else ''}}}"


def quantile(share: float, name: str, by: str, where: str = NODES) -> str:
    """A percentile of a histogram."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({name}_bucket{{{where}}}{RATE})))"


def percentiles(name: str, by: str, legend: str, where: str = NODES) -> tuple[Query, ...]:
    """The median and the 99th percentile."""
    return tuple(
        Query(quantile(share, name, by, where), f"{legend} {label}") for share, label in ((0.5, "p50"), (0.99, "p99"))
    )


def one(expr: str, legend: str) -> tuple[Query, ...]:
    """A panel's only query."""
    return (Query(expr, legend),)


REQUESTS = "dougdb_facade_requests_total"
NOT_PROBES = 'route!~"/(livez|readyz|metrics)"'
KEYS = f'{WHERE}, route="/v1/kv/{{key}}"'
NOT_PROBES = 'route!~"/(livez|readyz|metrics)"'
SERVER_ERRORS = 'code=~"5.."'
KEYS = f'{WHERE}, route="/v1/kv/{{key}}"'
VOTERS = 'role="voter"'
HITS = 'outcome="hit"'
FACADE_PROCESS = "on (namespace, job, instance) dougdb_facade_map_epoch"
ERROR_SHARE = (
    f"(sum(rate({facade(REQUESTS, f'{NOT_PROBES}, {SERVER_ERRORS}')}{RATE})) or vector(0))"
    f" / sum(rate({facade(REQUESTS, NOT_PROBES)}{RATE}))"
)
FREE = f"{node('dougdb_disk_free_bytes')} / {node('dougdb_disk_total_bytes')}"
