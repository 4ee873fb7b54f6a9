{{/* What the schema cannot say. Every message names the value and what to do. Rendered once, by configmap.yaml. */}}
{{- define "dougdb.validate" -}}
{{- $v := .Values -}}
{{- $root := . -}}
{{- if gt (len (include "dougdb.fullname" .)) 44 -}}
{{- fail (printf "the name %q is longer than 44 characters: set fullnameOverride" (include "dougdb.fullname" .)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "dougdb.fullname" .)) -}}
{{- fail (printf "the name %q is none of a Service: those have small letters, digits and hyphens, and begin with a letter. Set fullnameOverride" (include "dougdb.fullname" .)) -}}
{{- end -}}
{{- if ge (mul 2 (int64 $v.raft.heartbeatMs)) (add1 (int64 $v.raft.electionTimeoutMs)) -}}
{{- fail "raft.electionTimeoutMs must be at least twice raft.heartbeatMs" -}}
{{- end -}}
{{- if le (int64 $v.raft.electionTimeoutMaxMs) (int64 $v.raft.electionTimeoutMs) -}}
{{- fail "raft.electionTimeoutMaxMs must be greater than raft.electionTimeoutMs" -}}
{{- end -}}
{{- if lt (mul 1000 (int64 $v.raft.terminationGracePeriodSeconds)) (add 10000 (int64 $v.raft.drainTimeoutMs)) -}}
{{- fail "raft.terminationGracePeriodSeconds must be at least 10 s longer than raft.drainTimeoutMs: a node that is killed while it hands over leaves its shard without a leader" -}}
{{- end -}}
{{- if lt (int64 $v.facade.terminationGracePeriodSeconds) (add 10 (int64 $v.facade.preStopSeconds)) -}}
{{- fail "facade.terminationGracePeriodSeconds must be at least 10 s longer than facade.preStopSeconds" -}}
{{- end -}}
{{- if and $v.facade.autoscaling.enabled (lt (int64 $v.facade.autoscaling.maxReplicas) (int64 $v.facade.autoscaling.minReplicas)) -}}
{{- fail "facade.autoscaling.maxReplicas must not be less than minReplicas" -}}
{{- end -}}
{{- if and $v.facade.service.nodePort (eq $v.facade.service.type "ClusterIP") -}}
{{- fail "facade.service.nodePort needs facade.service.type NodePort or LoadBalancer" -}}
{{- end -}}
{{- range $name := keys $v.raft.settings -}}
{{- if hasKey (fromYaml (include "dougdb.raftSettings" $root)) $name -}}
{{- fail (printf "raft.settings.%s: the chart sets it from a value of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $v.facade.settings -}}
{{- if hasKey (fromYaml (include "dougdb.facadeSettings" $root)) $name -}}
{{- fail (printf "facade.settings.%s: the chart sets it from a value of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $v.raft.podLabels -}}
{{- if or (eq $name "dougdb.io/shard") (hasKey (fromYaml (include "dougdb.selectorLabels" (list $root "raft-node"))) $name) -}}
{{- fail (printf "raft.podLabels.%s: the chart selects pods by it" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $v.facade.podLabels -}}
{{- if hasKey (fromYaml (include "dougdb.selectorLabels" (list $root "facade"))) $name -}}
{{- fail (printf "facade.podLabels.%s: the chart selects pods by it" $name) -}}
{{- end -}}
{{- end -}}
{{- include "dougdb.validateRoutes" . -}}
{{- include "dougdb.validateModes" . -}}
{{- include "dougdb.validateLive" . -}}
{{- end -}}

{{- define "dougdb.validateRoutes" -}}
{{- $facade := .Values.facade -}}
{{- if and $facade.ingress.enabled (not $facade.ingress.hosts) -}}
{{- fail "facade.ingress.enabled needs facade.ingress.hosts, the names under which clients come" -}}
{{- end -}}
{{- if and $facade.httpRoute.enabled (not $facade.httpRoute.hostnames) -}}
{{- fail "facade.httpRoute.enabled needs facade.httpRoute.hostnames, the names under which clients come" -}}
{{- end -}}
{{- if and $facade.httpRoute.enabled (not $facade.httpRoute.parentRefs) -}}
{{- fail "facade.httpRoute.enabled needs facade.httpRoute.parentRefs, the gateways that lead to it" -}}
{{- end -}}
{{- if and (or $facade.ingress.enabled $facade.httpRoute.enabled) (ne .Values.tls.mode "disabled") -}}
{{- if and $facade.ingress.enabled (not $facade.ingress.annotations) -}}
{{- fail "facade.ingress over tls.mode: most controllers speak plaintext to their backends; say in facade.ingress.annotations that yours uses HTTPS" -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .Values.commonLabels -}}
{{- if hasKey (include "dougdb.labels" (list (dict "Values" (omit $.Values "commonLabels") "Chart" $.Chart "Release" $.Release) "facade") | fromYaml) $name -}}
{{- fail (printf "commonLabels.%s: the chart sets it itself" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dougdb.validateModes" -}}
{{- $v := .Values -}}
{{- if and (eq $v.tls.mode "existingSecret") (not $v.tls.existingSecret) -}}
{{- fail "tls.mode existingSecret needs tls.existingSecret, the name of a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "certManager") (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.mode certManager needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- $modes := splitList "," $v.auth.mode -}}
{{- if and (ne $v.auth.mode "none") (eq $v.tls.mode "disabled") -}}
{{- fail (printf "auth.mode %s needs tls.mode: tokens must not travel in the clear, and nodes are told from others by their certificates" $v.auth.mode) -}}
{{- end -}}
{{- if and (has "mtls" $modes) (not $v.auth.clientCASecret) -}}
{{- fail "auth.mode mtls needs auth.clientCASecret, the name of a Secret with ca.crt" -}}
{{- end -}}
{{- if and (has "mtls" $modes) (eq $v.auth.clientCASecret (include "dougdb.tlsSecret" .)) -}}
{{- fail "auth.clientCASecret is the Secret of tls: whoever has a certificate of that authority may speak to nodes as a node" -}}
{{- end -}}
{{- if and (has "oidc" $modes) (not (and $v.auth.oidc.issuer $v.auth.oidc.audience $v.auth.oidc.jwks)) -}}
{{- fail "auth.mode oidc needs auth.oidc.issuer, auth.oidc.audience and auth.oidc.jwks" -}}
{{- end -}}
{{- if and $v.tracing.enabled (not $v.tracing.endpoint) -}}
{{- fail "tracing.enabled needs tracing.endpoint, where a collector takes OTLP over HTTP, for example http://otel-collector.observability:4318/v1/traces" -}}
{{- end -}}
{{- if and $v.tls.existingSecret (ne $v.tls.mode "existingSecret") -}}
{{- fail (printf "tls.existingSecret is set, but tls.mode is %s" $v.tls.mode) -}}
{{- end -}}
{{- if and $v.monitoring.enabled (or $v.monitoring.podMonitor $v.monitoring.serviceMonitor $v.monitoring.rules) (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
{{- fail "monitoring.enabled: this cluster does not have the Prometheus operator (monitoring.coreos.com/v1); install it, or set monitoring.podMonitor, monitoring.serviceMonitor and monitoring.rules to false" -}}
{{- end -}}
{{- end -}}

{{/*
What is already there: without a cluster to ask, as in `helm template`, nothing is.
The shape of a cluster is in its volumes. Other shards or other members would leave data behind, or nodes that refuse.
*/}}
{{- define "dougdb.validateLive" -}}
{{- $v := .Values -}}
{{- $root := . -}}
{{- $claims := dict -}}
{{- range $claim := (lookup "v1" "PersistentVolumeClaim" .Release.Namespace "").items -}}
{{- $_ := set $claims $claim.metadata.name $claim -}}
{{- end -}}
{{- $prefix := printf "data-%s-s" (include "dougdb.fullname" .) -}}
{{- $shards := int $v.shards -}}
{{- $replicas := int $v.raft.replicas -}}
{{- $found := dict -}}
{{- $members := 0 -}}
{{- range $name, $claim := $claims -}}
{{- $place := trimPrefix $prefix $name -}}
{{- if and (hasPrefix $prefix $name) (regexMatch "^[0-9]+-[0-9]+$" $place) -}}
{{- $shard := int (index (splitList "-" $place) 0) -}}
{{- $ordinal := int (index (splitList "-" $place) 1) -}}
{{- $_ := set $found (toString $shard) true -}}
{{- $members = max $members (add1 $ordinal) -}}
{{- if ge $shard $shards -}}
{{- fail (printf "shards: %d, but the claim %s holds data of shard %d. The number of shards cannot change while the data is there: set shards to what it was, or delete the claims of all shards (kubectl delete pvc -n %s -l app.kubernetes.io/instance=%s)" $shards $name $shard $root.Release.Namespace $root.Release.Name) -}}
{{- end -}}
{{- if ge $ordinal $replicas -}}
{{- fail (printf "raft.replicas: %d, but the claim %s belongs to member %d. The members of a shard cannot change through the chart: set raft.replicas to what it was" $replicas $name $ordinal) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Any node's will do: claims of single nodes may be gone with their disks. */}}
{{- $log := regexMatch (printf "(^| )wal-%s[0-9]+-[0-9]+( |$)" (trimPrefix "data-" $prefix)) (keys $claims | join " ") -}}
{{- /* What a StatefulSet asks for counts as being there: its claims are made with its pods, which a quota may keep away. */}}
{{- range $n := until $shards -}}
{{- with lookup "apps/v1" "StatefulSet" $root.Release.Namespace (include "dougdb.shardName" (list $root $n)) -}}
{{- $_ := set $found (toString $n) true -}}
{{- $members = max $members (dig "spec" "replicas" 0 .) -}}
{{- range $template := dig "spec" "volumeClaimTemplates" list . -}}
{{- $log = or $log (eq $template.metadata.name "wal") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $found $log (not $v.persistence.wal.enabled) -}}
{{- fail (printf "persistence.wal.enabled cannot change while the data is there: the logs of these nodes lie in claims of their own, such as wal-%s0-0. Nothing is lost: set it back to true" (trimPrefix "data-" $prefix)) -}}
{{- end -}}
{{- if and $found (not $log) $v.persistence.wal.enabled -}}
{{- fail "persistence.wal.enabled cannot change while the data is there: the logs of these nodes lie in the claims of their data. Nothing is lost: set it back to false" -}}
{{- end -}}
{{- if and $found (not (hasKey $found (toString (sub $shards 1)))) -}}
{{- fail (printf "shards: %d, but there are claims of %d shards only. The number of shards cannot change while the data is there" $shards (len $found)) -}}
{{- end -}}
{{- if and $found (lt (int $members) $replicas) -}}
{{- fail (printf "raft.replicas: %d, but the shards have fewer members: there is no claim %s0-%d. The members of a shard cannot change through the chart: set raft.replicas to what it was. If that claim went with its disk, make it again first, empty" $replicas $prefix (sub $replicas 1)) -}}
{{- end -}}
{{- $settings := dig "data" dict (lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-raft" (include "dougdb.fullname" .))) -}}
{{- $encrypted := dict "disabled" false "mutual" true -}}
{{- /* Those that are to stop may still run: the StatefulSet would restart them one after the other. */}}
{{- $runs := 0 -}}
{{- range $n := until $shards -}}
{{- $set := lookup "apps/v1" "StatefulSet" $root.Release.Namespace (include "dougdb.shardName" (list $root $n)) -}}
{{- $runs = max $runs (dig "spec" "replicas" 0 $set) (dig "status" "replicas" 0 $set) -}}
{{- end -}}
{{- $was := get $encrypted (dig "DOUGDB_TLS_MODE" "" $settings) -}}
{{- if and (kindIs "bool" $was) (ne $was (ne $v.tls.mode "disabled")) (gt (int $runs) 0) -}}
{{- fail (printf "tls.mode: %s, but the nodes that run speak %s, and with some of each a shard has no majority. Stop all of it first (kubectl -n %s scale statefulset,deployment -l app.kubernetes.io/instance=%s --replicas=0) and wait until its pods are gone, then upgrade, with Helm 4 with --force-conflicts" $v.tls.mode (ternary "TLS" "plaintext" $was) .Release.Namespace .Release.Name) -}}
{{- end -}}
{{- range $n := until $shards -}}
{{- $set := lookup "apps/v1" "StatefulSet" $root.Release.Namespace (include "dougdb.shardName" (list $root $n)) -}}
{{- range $template := dig "spec" "volumeClaimTemplates" list $set -}}
{{- $wanted := dict "data" $v.persistence.data.size "wal" $v.persistence.wal.size -}}
{{- $has := $template.spec.resources.requests.storage -}}
{{- $wants := get $wanted $template.metadata.name -}}
{{- if ne (include "dougdb.bytes" $has) (include "dougdb.bytes" $wants) -}}
{{- fail (printf "persistence.%s.size: %s, but the StatefulSet %s was made with %s, and Kubernetes does not let a StatefulSet change that. Grow the claims themselves, delete the StatefulSet with --cascade=orphan, then upgrade" $template.metadata.name $wants $set.metadata.name $has) -}}
{{- end -}}
{{- $class := dig "spec" "storageClassName" "" $template -}}
{{- $wanted := (get $v.persistence $template.metadata.name).storageClass -}}
{{- if ne $class $wanted -}}
{{- fail (printf "persistence.%s.storageClass: %q, but the StatefulSet %s was made with %q, and Kubernetes does not let a StatefulSet change that: set it back. If its claims were never bound (kubectl get pvc), there is no data yet: uninstall, delete the claims, and install again" $template.metadata.name $wanted $set.metadata.name $class) -}}
{{- end -}}
{{- end -}}
{{- if and $set (ne (len (dig "spec" "volumeClaimTemplates" list $set)) (ternary 2 1 $v.persistence.wal.enabled)) -}}
{{- fail "persistence.wal.enabled cannot change while the data is there: the log lies where it was made" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The bytes of a quantity such as 10Gi: Kubernetes gives 1024Mi back as 1Gi. */}}
{{- define "dougdb.bytes" -}}
{{- $bytes := float64 (regexFind "^[0-9.]+" (toString .)) -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) -}}
{{- $base := ternary 1024 1000 (hasSuffix "i" $unit) -}}
{{- if $unit -}}
{{- range until (add1 (index (dict "k" 0 "K" 0 "M" 1 "G" 2 "T" 3 "P" 4 "E" 5) (trunc 1 $unit)) | int) }}{{ $bytes = mulf $bytes $base }}{{ end -}}
{{- end -}}
{{- printf "%.0f" $bytes -}}
{{- end -}}
