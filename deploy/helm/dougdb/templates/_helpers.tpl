{{/* Names, labels and addresses. A shard's name is at most 52 bytes, so that its pods' names fit a label. */}}

{{- define "dougdb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name -}}{{- else -}}{{- printf "%s-%s" .Release.Name $name -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dougdb.facadeName" -}}{{ include "dougdb.fullname" . }}-facade{{- end -}}

{{- define "dougdb.facadePort" -}}8080{{- end -}}

{{/* Takes a list: the root, the shard. */}}
{{- define "dougdb.shardName" -}}{{ include "dougdb.fullname" (index . 0) }}-s{{ index . 1 }}{{- end -}}

{{/* Takes a list: the root, the shard. The domain of the pods of a shard, who are found there before they are ready. */}}
{{- define "dougdb.peersDomain" -}}
{{- $root := index . 0 -}}
{{- include "dougdb.shardName" . }}-peers.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
{{- end -}}

{{/* Takes a list: the root, the shard. The Raft addresses of its first members: name=host:port,... */}}
{{- define "dougdb.peers" -}}
{{- $shard := include "dougdb.shardName" . -}}
{{- $domain := include "dougdb.peersDomain" . -}}
{{- $peers := list -}}
{{- range $i := until (int (index . 0).Values.raft.replicas) -}}
{{- $peers = append $peers (printf "%s-%d=%s-%d.%s:21001" $shard $i $shard $i $domain) -}}
{{- end -}}
{{- join "," $peers -}}
{{- end -}}

{{/* The Raft addresses of shard 0. */}}
{{- define "dougdb.seeds" -}}
{{- $shard := include "dougdb.shardName" (list . 0) -}}
{{- $domain := include "dougdb.peersDomain" (list . 0) -}}
{{- $seeds := list -}}
{{- range $i := until (int .Values.raft.replicas) -}}
{{- $seeds = append $seeds (printf "%s-%d.%s:21001" $shard $i $domain) -}}
{{- end -}}
{{- join "," $seeds -}}
{{- end -}}

{{/* The Doug addresses of every node, as the facade reads them. */}}
{{- define "dougdb.nodes" -}}
{{- $root := . -}}
{{- $nodes := dict -}}
{{- range $n := until (int .Values.shards) -}}
{{- $shard := include "dougdb.shardName" (list $root $n) -}}
{{- $domain := include "dougdb.peersDomain" (list $root $n) -}}
{{- $members := dict -}}
{{- range $i := until (int $root.Values.raft.replicas) -}}
{{- $_ := set $members (printf "%s-%d" $shard $i) (printf "%s-%d.%s:21000" $shard $i $domain) -}}
{{- end -}}
{{- $_ := set $nodes (toString $n) $members -}}
{{- end -}}
{{- toJson $nodes -}}
{{- end -}}

{{/* The domains of the shards, as the facade reads them to look for SRV records. */}}
{{- define "dougdb.domains" -}}
{{- $root := . -}}
{{- $domains := dict -}}
{{- range $n := until (int .Values.shards) -}}
{{- $_ := set $domains (toString $n) (include "dougdb.peersDomain" (list $root $n)) -}}
{{- end -}}
{{- toJson $domains -}}
{{- end -}}

{{/* Labels that select, and never change. Takes a list: the root, the component. */}}
{{- define "dougdb.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of objects, never of pods: a new version of the chart alone must not restart anything. */}}
{{- define "dougdb.labels" -}}
{{- $root := index . 0 -}}
{{ include "dougdb.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: dougdb
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A map with further keys, each of which is there once. Takes a list: the chart's own as YAML, further ones, which win. */}}
{{- define "dougdb.merged" -}}
{{- $merged := index . 0 | fromYaml -}}
{{- range $name, $value := index . 1 }}{{ $_ := set $merged $name $value }}{{ end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* The environment of a container: a name is there once, and the last one counts. Takes a list: the chart's own as YAML, further ones. */}}
{{- define "dougdb.environment" -}}
{{- $byName := dict -}}
{{- $names := list -}}
{{- range concat (index . 0 | fromYamlArray) (index . 1) -}}
{{- if not (hasKey $byName .name) }}{{ $names = append $names .name }}{{ end -}}
{{- $_ := set $byName .name . -}}
{{- end -}}
{{- $merged := list -}}
{{- range $names }}{{ $merged = append $merged (get $byName .) }}{{ end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* Whether facades ask Kubernetes where the nodes are, for which they need a token: "true" or "false". */}}
{{- define "dougdb.asksKubernetes" -}}
{{- or (eq .Values.discovery.mode "kubernetes") (and (eq .Values.discovery.mode "auto") .Values.discovery.rbac) -}}
{{- end -}}

{{/* The zone of a pod, as a variable; empty where the pod has no such label. */}}
{{- define "dougdb.zone" -}}
{{- with .Values.zoneLabel }}
- name: DOUGDB_ZONE
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['{{ . }}']
{{- end }}
{{- end -}}

{{/* The names under which clients come from outside. */}}
{{- define "dougdb.publicHosts" -}}
{{- $facade := .Values.facade -}}
{{- concat (ternary $facade.ingress.hosts list $facade.ingress.enabled) (ternary $facade.httpRoute.hostnames list $facade.httpRoute.enabled) .Values.tls.extraNames | uniq | toJson -}}
{{- end -}}

{{/* Takes a list: the root, the image. */}}
{{- define "dougdb.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := printf "%s/%s" $root.Values.image.registry $image.repository -}}
{{- if $image.digest -}}{{ $name }}@{{ $image.digest }}{{- else -}}{{ $name }}:{{ default $root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{- define "dougdb.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "dougdb.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
Spread over machines and zones. Takes a list: the root, the labels that select the pods, as YAML, and how many machines
there must be before one may get a second pod; 0: none, if only each has as many.
*/}}
{{- define "dougdb.spread" -}}
{{- $hard := (index . 0).Values.spread.hard -}}
{{- $labels := index . 1 -}}
{{- $machines := index . 2 -}}
{{- range $index, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $index }}
{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ ternary "DoNotSchedule" "ScheduleAnyway" $hard }}
  {{- if and $hard $machines (not $index) }}
  minDomains: {{ $machines }}
  {{- end }}
  labelSelector:
    matchLabels:
      {{- $labels | nindent 6 }}
{{- end }}
{{- end -}}

{{/* TLS: the Secret, the environment, the volume. No volume while tls.mode is disabled. */}}

{{- define "dougdb.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}{{ .Values.tls.existingSecret }}{{- else -}}{{ include "dougdb.fullname" . }}-tls{{- end -}}
{{- end -}}

{{- define "dougdb.tlsEnv" -}}
DOUGDB_TLS_MODE: {{ ternary "disabled" "mutual" (eq .Values.tls.mode "disabled") }}
{{- if ne .Values.tls.mode "disabled" }}
DOUGDB_TLS_CERT_FILE: /etc/dougdb/tls/tls.crt
DOUGDB_TLS_KEY_FILE: /etc/dougdb/tls/tls.key
DOUGDB_TLS_CA_FILE: /etc/dougdb/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "dougdb.tlsMount" -}}
{{- if ne .Values.tls.mode "disabled" -}}
- name: tls
  mountPath: /etc/dougdb/tls
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "dougdb.tlsVolume" -}}
{{- if ne .Values.tls.mode "disabled" -}}
- name: tls
  secret:
    secretName: {{ include "dougdb.tlsSecret" . }}
    defaultMode: 0440
{{- end -}}
{{- end -}}

{{/*
Who may do what: the environment of both services, and the files of the facade. Nodes only have to know that there is
something to keep: they serve whoever shows the facades' name in its certificate then.
*/}}

{{- define "dougdb.guarded" -}}{{- if ne .Values.auth.mode "none" -}}true{{- end -}}{{- end -}}

{{- define "dougdb.authEnv" -}}
{{- if include "dougdb.guarded" . -}}
DOUGDB_AUTH_MODE: {{ .Values.auth.mode | quote }}
{{- end -}}
{{- end -}}

{{- define "dougdb.facadeAuthEnv" -}}
{{- if include "dougdb.guarded" . -}}
{{- $auth := .Values.auth -}}
{{- $modes := splitList "," $auth.mode -}}
{{ include "dougdb.authEnv" . }}
{{- if $auth.bootstrapSecret }}
DOUGDB_AUTH_BOOTSTRAP_FILE: /etc/dougdb/bootstrap/token
{{- end }}
DOUGDB_AUTH_SESSION_KEY_FILE: /etc/dougdb/session/key
{{- if has "mtls" $modes }}
DOUGDB_AUTH_CLIENT_CA_FILE: /etc/dougdb/client-ca/ca.crt
{{- end }}
{{- if has "oidc" $modes }}
{{ include "dougdb.issuerEnv" . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The issuer of JWTs, for whoever judges them. */}}
{{- define "dougdb.issuerEnv" -}}
{{- with .Values.auth.oidc -}}
DOUGDB_AUTH_OIDC_ISSUER: {{ .issuer | quote }}
DOUGDB_AUTH_OIDC_AUDIENCE: {{ .audience | quote }}
DOUGDB_AUTH_OIDC_JWKS: {{ .jwks | quote }}
DOUGDB_AUTH_OIDC_CLAIM: {{ .claim | quote }}
DOUGDB_AUTH_OIDC_GROUPS_CLAIM: {{ .groupsClaim | quote }}
{{- if .caSecret }}
DOUGDB_AUTH_OIDC_JWKS_CA_FILE: /etc/dougdb/oidc-ca/ca.crt
{{- end }}
{{- end -}}
{{- end -}}

{{/* The rates of clients, for facades and nodes; nothing where there are none. */}}
{{- define "dougdb.limitsEnv" -}}
{{- with .Values.limits.clientRequestsPerS }}
DOUGDB_CLIENT_REQUESTS_PER_S: {{ . | quote }}
{{- end }}
{{- with .Values.limits.addressRequestsPerS }}
DOUGDB_ADDRESS_REQUESTS_PER_S: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Whether nodes judge JWTs. */}}
{{- define "dougdb.issuerAtNodes" -}}{{- if and .Values.auth.oidc.atNodes (has "oidc" (splitList "," .Values.auth.mode)) -}}true{{- end -}}{{- end -}}

{{/* The egress rule to the issuer's keys, wherever they are. */}}
{{- define "dougdb.issuerEgress" -}}
# The issuer's keys, wherever they are.
- ports:
    - {port: {{ default "443" (trimPrefix ":" (regexFind ":[0-9]+$" (urlParse .Values.auth.oidc.jwks).host)) }}, protocol: TCP}
{{- end -}}

{{/* The Secret with the key that signs the console's sessions, the same for all facades. */}}
{{- define "dougdb.sessionSecret" -}}{{- default (printf "%s-session" (include "dougdb.fullname" .)) .Values.auth.sessionKeySecret -}}{{- end -}}

{{/* The Secrets that the facade mounts for it, as YAML: the folder below /etc/dougdb, and the Secret. */}}
{{- define "dougdb.authSecrets" -}}
{{- $auth := .Values.auth -}}
{{- $modes := splitList "," $auth.mode -}}
{{- $secrets := dict -}}
{{- if include "dougdb.guarded" . -}}{{- $_ := set $secrets "session" (include "dougdb.sessionSecret" .) -}}{{- end -}}
{{- if and (include "dougdb.guarded" .) $auth.bootstrapSecret -}}{{- $_ := set $secrets "bootstrap" $auth.bootstrapSecret -}}{{- end -}}
{{- if has "mtls" $modes -}}{{- $_ := set $secrets "client-ca" $auth.clientCASecret -}}{{- end -}}
{{- if and (has "oidc" $modes) $auth.oidc.caSecret -}}{{- $_ := set $secrets "oidc-ca" $auth.oidc.caSecret -}}{{- end -}}
{{- toYaml $secrets -}}
{{- end -}}

{{- define "dougdb.authMounts" -}}
{{- range $folder, $_ := include "dougdb.authSecrets" . | fromYaml }}
- name: {{ $folder }}
  mountPath: /etc/dougdb/{{ $folder }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "dougdb.authVolumes" -}}
{{- range $folder, $secret := include "dougdb.authSecrets" . | fromYaml }}
- name: {{ $folder }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
    {{- if eq $folder "bootstrap" }}
    # Facades start without it, so that the Secret can go once there are users.
    optional: true
    {{- end }}
{{- end }}
{{- end -}}

{{/* The environment of a pod that uses the facade, with the token of a Secret. Takes a list: the root, the Secret. */}}
{{- define "dougdb.tokenEnv" -}}
{{- $secret := default (index . 0).Values.auth.bootstrapSecret (index . 1) -}}
{{- if and (include "dougdb.guarded" (index . 0)) $secret -}}
- name: DOUGDB_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: token, optional: true}
{{- end -}}
{{- end -}}

{{/* Traces: the environment of both services, and the way to the collector. Nothing while they are off. */}}

{{- define "dougdb.tracingEnv" -}}
{{- if .Values.tracing.enabled -}}
DOUGDB_TRACING_ENABLED: "true"
DOUGDB_TRACING_ENDPOINT: {{ .Values.tracing.endpoint | quote }}
{{- end -}}
{{- end -}}

{{- define "dougdb.collectorPort" -}}
{{- $url := urlParse .Values.tracing.endpoint -}}
{{- $port := trimPrefix ":" (regexFind ":[0-9]+$" $url.host) -}}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $port -}}
{{- end -}}

{{- define "dougdb.collectorEgress" -}}
{{- if .Values.tracing.enabled -}}
# The collector of traces.
- ports:
    - {port: {{ include "dougdb.collectorPort" . }}, protocol: TCP}
  {{- with .Values.tracing.collectorAt }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The names of the facade's Service, as YAML. */}}
{{- define "dougdb.facadeHosts" -}}
- {{ include "dougdb.facadeName" . }}
- {{ include "dougdb.facadeName" . }}.{{ .Release.Namespace }}
- {{ include "dougdb.facadeName" . }}.{{ .Release.Namespace }}.svc
- {{ include "dougdb.facadeName" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* The names that the certificate is good for, as YAML. */}}
{{- define "dougdb.tlsNames" -}}
{{- $root := . -}}
- localhost
{{ include "dougdb.facadeHosts" . }}
{{- range .Values.tls.extraNames }}
- {{ . | quote }}
{{- end }}
{{- range $n := until (int .Values.shards) }}
- "*.{{ include "dougdb.shardName" (list $root $n) }}-peers.{{ $root.Release.Namespace }}.svc"
- "*.{{ include "dougdb.peersDomain" (list $root $n) }}"
{{- end }}
{{- end -}}

{{- define "dougdb.scheme" -}}{{ ternary "http" "https" (eq .Values.tls.mode "disabled") }}{{- end -}}

{{/* The annotations by which a Prometheus without the operator finds a pod. Takes a list: the root, the port. */}}
{{- define "dougdb.scrapeAnnotations" -}}
{{- if (index . 0).Values.monitoring.scrapeAnnotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index . 1 | quote }}
prometheus.io/path: /metrics
prometheus.io/scheme: {{ include "dougdb.scheme" (index . 0) }}
{{- end -}}
{{- end -}}
