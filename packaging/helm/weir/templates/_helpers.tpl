{{- define "weir.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "weir.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "weir.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "weir.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "weir.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "weir.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- /* Each Secret of a listener once, as JSON. */ -}}
{{- define "weir.tlsSecrets" -}}
{{- $all := list }}
{{- range .Values.listeners }}
{{- with .tlsSecret }}
{{- $all = append $all . }}
{{- end }}
{{- end }}
{{- $all | uniq | toJson }}
{{- end }}

{{- /* weir.toml. A TOML string of these values is a JSON string. */ -}}
{{- define "weir.toml" -}}
lame_duck_grace_period = {{ .Values.lameDuck.gracePeriod | toJson }}
lame_duck_duration = "{{ int .Values.lameDuck.durationSeconds }}s"
# The ConfigMap may change while weir runs.
reload_on_change = true

[log]
format = {{ .Values.log.format | toJson }}
level = {{ .Values.log.level | toJson }}

{{ range .Values.listeners -}}
[[listeners]]
listen = "[::]:{{ int .port }}"
kind = {{ .kind | default "client" | toJson }}
{{- with .advertise }}
advertise = {{ toJson . }}
{{- end }}
{{- with .acceptProxyProtocolFrom }}
accept_proxy_protocol_from = {{ toJson . }}
{{- end }}
{{- with .extra }}
{{ . }}
{{- end }}
{{- with .tlsSecret }}
[listeners.tls]
cert_file = "/etc/weir/tls/{{ . }}/tls.crt"
key_file = "/etc/weir/tls/{{ . }}/tls.key"
{{- end }}

{{ end -}}
[monitor]
listen = "[::]:{{ int .Values.monitor.port }}"

[admin]
socket = "/run/weir/weir.sock"

[cluster]
{{- if .Values.cluster.servers }}
{{- with .Values.cluster.extra }}
{{ . }}
{{- end }}
{{- range .Values.cluster.servers }}

[[cluster.servers]]
{{- with .name }}
name = {{ toJson . }}
{{- end }}
address = {{ required "each of cluster.servers needs an address" .address | toJson }}
{{- with .monitor }}
monitor = {{ toJson . }}
{{- end }}
{{- with .maxConnections }}
max_connections = {{ int . }}
{{- end }}
{{- end }}
{{- else }}
discover = {{ required "name the servers: cluster.discover or cluster.servers" .Values.cluster.discover | toJson }}
{{- with .Values.cluster.discoverMonitor }}
discover_monitor = {{ toJson . }}
{{- end }}
{{- with .Values.cluster.extra }}
{{ . }}
{{- end }}
{{- end }}
{{- with .Values.fleet }}
{{- if .enabled }}

[fleet]
name = {{ toJson .name }}
{{- if .existingSecret }}
{{- if eq .credential "creds" }}
creds_file = "/etc/weir/fleet/creds"
{{- else }}
user = {{ required "fleet.user is needed beside a password" .user | toJson }}
password_file = "/etc/weir/fleet/password"
{{- end }}
{{- end }}
{{- with .extra }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.config }}

{{ . }}
{{- end }}
{{- end }}
