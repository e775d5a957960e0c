{{- define "inspector.name" -}}
{{- required "fullnameOverride is empty: name the DaemonSet" .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "inspector.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "inspector.name" .) -}}
{{- end -}}

{{/* A ClusterRole is the cluster's: releases in two namespaces must not share one. */}}
{{- define "inspector.clusterName" -}}
{{- include "inspector.name" . -}}
{{- if ne .Release.Namespace "kube-system" }}-{{ .Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "inspector.userName" -}}
inspector-user
{{- if ne (include "inspector.clusterName" .) "net-exporter" }}-{{ include "inspector.clusterName" . }}{{ end -}}
{{- end -}}

{{/* What never changes in the life of a DaemonSet. `app` is the label of the original exporter. */}}
{{- define "inspector.selector" -}}
app: {{ include "inspector.name" . }}
app.kubernetes.io/name: inspector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inspector.labels" -}}
{{ include "inspector.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The configuration file. A map becomes TOML here: each value as JSON, which TOML reads as well. Helm's
     own toToml writes whole numbers as 16384.0, which the agent refuses. */}}
{{- define "inspector.config" -}}
{{- if kindIs "string" .Values.config -}}
{{ .Values.config }}
{{- else -}}
# Made by the chart from the value config. What is not here has its default.
{{- include "inspector.toml" (dict "table" .Values.config "path" "") }}
{{- end -}}
{{- end -}}

{{/* A table of TOML: its values, and then the tables in it. */}}
{{- define "inspector.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}

[{{ $path }}{{ $key }}]
{{- include "inspector.toml" (dict "table" $value "path" (printf "%s%s." $path $key)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Events are sent elsewhere, and may have to wait on disk. */}}
{{- define "inspector.sends" -}}
{{- if or .Values.lokiServerAddress (contains "sinks" (toString .Values.config)) }}true{{ end -}}
{{- end -}}

{{/* Values that can be written and not be meant. */}}
{{- define "inspector.check" -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor: enable one of them, both would scrape each agent twice" -}}
{{- end -}}
{{- if kindIs "map" .Values.config -}}
{{- if and (dig "kubernetes" "events" false .Values.config) (not .Values.rbac.podEvents) -}}
{{- fail "config.kubernetes.events: needs rbac.podEvents, the right to write Events" -}}
{{- end -}}
{{- if hasKey .Values.config "web" -}}
{{- fail "config.web: set metrics.port and metrics.path instead, which probes and Service follow" -}}
{{- end -}}
{{- if hasKey (.Values.config.events | default dict) "listen" -}}
{{- fail "config.events.listen: set eventServer.listen instead" -}}
{{- end -}}
{{- if and .Values.lokiServerAddress (dig "sinks" "loki" "address" "" .Values.config) -}}
{{- fail "config.sinks.loki.address: lokiServerAddress is set as well; set one of them" -}}
{{- end -}}
{{- if hasKey (.Values.config.plugins | default dict) "directories" -}}
{{- if or .Values.plugins.configMap .Values.plugins.image.reference .Values.plugins.hostPath -}}
{{- fail "config.plugins.directories: plugins.configMap, plugins.image and plugins.hostPath replace it; use one or the other" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What both kinds of monitor say of an endpoint. */}}
{{- define "inspector.endpoint" -}}
port: metrics
path: {{ .Values.metrics.path }}
honorLabels: {{ .monitor.honorLabels }}
{{- with .monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with .monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- end -}}

{{/* AppArmor before Kubernetes 1.30: an annotation. */}}
{{- define "inspector.appArmorAnnotation" -}}
{{- $type := .Values.appArmorProfile.type -}}
{{- if eq $type "Unconfined" -}}
unconfined
{{- else if eq $type "RuntimeDefault" -}}
runtime/default
{{- else -}}
localhost/{{ required "appArmorProfile.localhostProfile is empty" .Values.appArmorProfile.localhostProfile }}
{{- end -}}
{{- end -}}
