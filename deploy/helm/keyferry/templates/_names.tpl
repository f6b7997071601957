{{/* The names and labels of objects. Values may be missing, because `helm upgrade --reuse-values` brings those of an older chart. */}}

{{- define "keyferry.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "keyferry.fullname" -}}
{{- $name := include "keyferry.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{ .Values.fullnameOverride | default $full | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "keyferry.serviceAccount" -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{ $account.name | default (eq (toString $account.create) "false" | ternary "default" (include "keyferry.fullname" .)) }}
{{- end }}

{{/* The selector of deploy/manifests, without the release's name. So `--take-ownership` can replace an installation by kustomize, Pod by Pod. */}}
{{- define "keyferry.selector" -}}
app.kubernetes.io/name: {{ include "keyferry.name" . }}
{{- end }}

{{- define "keyferry.podLabels" -}}
{{ include "keyferry.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keyferry.labels" -}}
{{ include "keyferry.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The metadata of an object: (list $ "-suffix" labels annotations). The last two are what only this object has. */}}
{{- define "keyferry.metadata" -}}
{{- $ := index . 0 -}}
namespace: {{ $.Release.Namespace }}
{{ include "keyferry.clusterMetadata" . }}
{{- end }}

{{/* The same for an object without a namespace. */}}
{{- define "keyferry.clusterMetadata" -}}
{{- $ := index . 0 -}}
name: {{ include "keyferry.fullname" $ }}{{ index . 1 }}
labels:
  {{- merge dict (index . 2) (include "keyferry.labels" $ | fromYaml) ($.Values.labels | default dict) | toYaml | nindent 2 }}
{{- with merge dict (index . 3) ($.Values.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
