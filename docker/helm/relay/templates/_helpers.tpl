{{- define "relay.secret" -}}
{{- .Values.existingSecret | default "relay" -}}
{{- end -}}

{{- define "relay.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if .Values.redis.bundled -}}
{{- $settings = merge $settings (dict "REDIS_HOST" "redis" "REDIS_PORT" "6379") -}}
{{- end -}}
{{- if .Values.production -}}
{{- $settings = merge $settings (dict
  "RELAY_PROFILE" "production"
  "RELAY_ADMIN_BIND" (printf "0.0.0.0:%d" (int .Values.adminPort))
  "RELAY_MAX_CLIENTS_PER_ADDRESS" "100") -}}
{{- end -}}
{{- range $name, $value := $settings }}
{{ $name }}: {{ $value | toString | quote }}
{{- end -}}
{{- end -}}

{{/* The seconds of preStop, draining, the supervisor and a reserve, as in docker/k8s. */}}
{{- define "relay.grace" -}}
{{- $settings := .Values.settings -}}
{{- add 5 2 8 (ceil (get $settings "RELAY_GRACEFUL_TIMEOUT" | default "20" | float64) | int) -}}
{{- end -}}
