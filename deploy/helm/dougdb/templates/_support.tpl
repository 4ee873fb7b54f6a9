{{/*
What the images of this version can do. A value that asks for more is refused by _validate.tpl.
This is the only place to change when the services learn it: "true" lets every mode of tls through.
*/}}
{{- define "dougdb.supportsTls" -}}{{- end -}}

{{/* The modes of discovery that the facade knows, as a list in YAML. */}}
{{- define "dougdb.discoveryModes" -}}
[static]
{{- end -}}
