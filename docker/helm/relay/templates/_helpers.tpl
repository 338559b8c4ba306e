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
{{- $graceful := get $settings "RELAY_GRACEFUL_TIMEOUT" | default "20" | float64 -}}
{{- $close := get $settings "RELAY_CLOSE_TIMEOUT" | default "2" | float64 -}}
{{- $longest := subf (mulf $graceful 0.75) (mulf $close 2) -}}
{{- if gt (get $settings "RELAY_DRAIN_SECONDS" | default "0" | float64) $longest -}}
{{- fail (printf "RELAY_DRAIN_SECONDS: %g s at most fit into RELAY_GRACEFUL_TIMEOUT, which must be raised, too" $longest) -}}
{{- end -}}
{{- add 5 2 8 (ceil (get $settings "RELAY_GRACEFUL_TIMEOUT" | default "20" | float64) | int) -}}
{{- end -}}
