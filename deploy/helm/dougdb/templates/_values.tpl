{{/*
Makes the values fit for templates. Every template begins with it, because Helm orders them as it likes; all see the same values.

A value that is missing gets its default: `helm upgrade --reuse-values` brings the values of the earlier chart, without
those that came later. Whole numbers become integers: Helm reads those of files as floats, and would write 1e+06.
*/}}

{{- define "dougdb.values" -}}
{{- include "dougdb.fill" (list .Values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- include "dougdb.whole" .Values -}}
{{- end -}}

{{/* Takes a list: values, their defaults. Resources that were set to null, to have none, stay away. */}}
{{- define "dougdb.fill" -}}
{{- $values := index . 0 -}}
{{- range $name, $default := index . 1 -}}
{{- if not (hasKey $values $name) -}}
{{- if ne $name "resources" }}{{ $_ := set $values $name $default }}{{ end -}}
{{- else if and (kindIs "map" $default) (kindIs "map" (get $values $name)) (ne $name "resources") -}}
{{- include "dougdb.fill" (list (get $values $name) $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dougdb.whole" -}}
{{- $values := . -}}
{{- range $name, $value := $values -}}
{{- if kindIs "map" $value -}}
{{- include "dougdb.whole" $value -}}
{{- else if kindIs "slice" $value -}}
{{- range $value }}{{ if kindIs "map" . }}{{ include "dougdb.whole" . }}{{ end }}{{ end -}}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) -}}
{{- $_ := set $values $name (int64 $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
