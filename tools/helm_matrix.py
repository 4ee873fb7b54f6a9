"""Sets of values that the chart is tested with, each by its name: what may be combined, shown in the chart's README.

Each is options of `helm template` and `helm install`; helm and Kubernetes' schemas take what the chart makes of them.
"""

from __future__ import annotations

from pathlib import Path

from tools.version import one_version

KIND = str(Path(__file__).resolve().parent.parent / "deploy" / "helm" / "dougdb" / "values-kind.yaml")
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
MATRIX: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "kind": ("--values", KIND),
    "one shard": ("--set", "shards=1"),
    "four shards of three": ("--set", "shards=4,raft.replicas=3"),
    "one node": ("--set", "shards=1,raft.replicas=1,facade.replicas=1"),
    "autoscaling": ("--set", "facade.autoscaling.enabled=true"),
    "log on the data's claim": ("--set", "persistence.wal.enabled=false"),
    "storage classes": ("--set", "persistence.wal.storageClass=fast,persistence.data.storageClass=big"),
    "monitoring": ("--set", "monitoring.enabled=true", *OPERATOR),
    "dashboards alone": (
        "--set",
        "monitoring.enabled=true,monitoring.podMonitor=false,monitoring.serviceMonitor=false,monitoring.rules=false",
    ),
    "bare": (
        "--set",
        "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,monitoring.scrapeAnnotations=false",
    ),
    "load balancer": (
        "--set",
        "facade.service.type=LoadBalancer,facade.service.port=80,facade.service.annotations.a=b",
    ),
    "node port": ("--set", "facade.service.type=NodePort,facade.service.nodePort=30080"),
    "digests": ("--set", f"raft.image.digest=sha256:{'a' * 64},image.registry=registry.example:5000"),
    "placement": (
        "--set",
        "spread.hard=true,raft.priorityClassName=high,raft.nodeSelector.disk=ssd,facade.tolerations[0].operator=Exists,"
        "image.pullSecrets[0].name=secret,raft.podLabels.team=data,raft.podAnnotations.note=x",
    ),
    "settings": (
        "--set",
        "raft.settings.DOUGDB_MEMTABLE_BYTES=33554432,facade.settings.DOUGDB_QUEUE_ITEMS_MAX=100,"
        "raft.extraEnv[0].name=A,raft.extraEnv[0].value=b",
    ),
    "backups": ("--set", "backup.enabled=true,backup.timeZone=Etc/UTC,backup.claim.storageClass=cheap"),
    "backups into a claim of one's own": ("--set", "backup.enabled=true,backup.claim.existing=mine"),
    "IPv6": ("--set", "raft.listen=[::]"),
    "names outside": (
        "--set",
        "tls.mode=certManager,tls.certManager.issuerRef.name=ca,tls.extraNames[0]=kv.example.org",
    ),
    "other names": ("--set", "fullnameOverride=kv,clusterDomain=example.internal"),
    "policies": (
        "--set-json",
        'networkPolicy={"clientsFrom":[{"podSelector":{}}],"metricsFrom":[{"podSelector":{"matchLabels":{"a":"b"}}}]}',
    ),
    "traces": ("--set", "tracing.enabled=true,tracing.endpoint=http://otel.observability:4318/v1/traces"),
    "traces to one place": (
        "--set-json",
        'tracing={"enabled":true,"endpoint":"https://otel.example/v1/traces","collectorAt":[{"podSelector":{}}]}',
    ),
    "TLS": ("--set", "tls.mode=existingSecret,tls.existingSecret=mine,discovery.mode=auto"),
    "access control": (
        "--set",
        "tls.mode=existingSecret,tls.existingSecret=mine,auth.mode=token\\,mtls\\,oidc,auth.bootstrapSecret=boot,"
        "auth.sessionKeySecret=key,auth.clientCASecret=clients,auth.oidc.issuer=https://issuer.example.org,"
        "auth.oidc.audience=dougdb,auth.oidc.jwks=https://issuer.example.org/keys,auth.oidc.atNodes=true,"
        "auth.backupTokenSecret=saver,backup.enabled=true,limits.clientRequestsPerS=100",
    ),
    "ingress": (
        "--set",
        "facade.ingress.enabled=true,facade.ingress.hosts[0]=kv.example.org,facade.ingress.tlsSecret=kv,"
        "facade.ingress.className=nginx,facade.ingress.annotations.a=b",
    ),
    "a route of a gateway": (
        "--set",
        "facade.httpRoute.enabled=true,facade.httpRoute.hostnames[0]=kv.example.org,"
        "facade.httpRoute.parentRefs[0].name=edge,facade.httpRoute.parentRefs[0].namespace=gateways",
    ),
    "labels of everything": ("--set-json", 'commonLabels={"team":"data","example.org/cost":"7"}'),
    "pods as one likes them": (
        "--set-json",
        'raft={"hostUsers":false,"dnsConfig":{"options":[{"name":"ndots","value":"1"}]},'
        '"resizePolicy":[{"resourceName":"cpu","restartPolicy":"NotRequired"}],'
        f'"sidecars":[{{"name":"log","image":"docker.io/dougdb/facade:{one_version()}"}}]}}',
    ),
    "no rights, and no zones": ("--set", "discovery.rbac=false,zoneLabel="),
    "zones by another label": ("--set", "zoneLabel=example.org/zone,raft.podLabels.example\\.org/zone=a"),
    "further objects": (
        "--set-json",
        'extraObjects=[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"{{ .Release.Name }}-x"},"data":{}}]',
    ),
}
