{{- /* What the schema of the values cannot say. Every template begins with it. */ -}}
{{- define "setupkey.check" -}}
{{- $values := .Values }}
{{- range $old, $new := dict "replicas" "controller.replicas" "resources" "controller.resources" }}
{{- if not (kindIs "invalid" (index $values $old)) }}{{ include "setupkey.moved" (list $old $new) }}{{ end }}
{{- end }}
{{- if not (kindIs "invalid" (.Values.controller).env) }}
{{- include "setupkey.moved" (list "controller.env" "controller.extraEnv") }}
{{- end }}
{{- range $path := include "setupkey.needed" . | fromYamlArray }}
{{- $value := $values }}
{{- range splitList "." $path }}{{ $value = index $value . }}{{ end }}
{{- if kindIs "invalid" $value }}{{ fail (printf "the value %s is null; leave it out to get its default" $path) }}{{ end }}
{{- end }}
{{- if eq (toJson .Values.enabled) "false" }}
{{- fail (printf "the value enabled is false, but nothing reads it; in the parent chart, give this dependency the condition %s.enabled" .Chart.Name) }}
{{- end }}
{{- $accounts := list }}
{{- range $component := list "controller" "enrollment" "api" }}
{{- $account := include "setupkey.account.values" (dict "root" $ "component" $component) | fromYaml }}
{{- $name := include "setupkey.account.name" (dict "root" $ "component" $component) }}
{{- if has $name $accounts }}
{{- fail (printf "the value %s.serviceAccount.name is the account of another component, %s, but each has rights of its own" $component $name) }}
{{- end }}
{{- $accounts = append $accounts $name }}
{{- if not (or $account.create $account.name) }}
{{- fail (printf "the value %sserviceAccount.create is false, so %[1]sserviceAccount.name must name an account that exists"
      (eq $component "controller" | ternary "" (printf "%s." $component))) }}
{{- end }}
{{- end }}
{{- $labels := dict "extraLabels" .Values.extraLabels "podLabels" .Values.podLabels }}
{{- range $component := list "controller" "enrollment" "api" }}
{{- $_ := set $labels (printf "%s.podLabels" $component) (index $values $component).podLabels }}
{{- end }}
{{- range $object := list "serviceMonitor" "podMonitor" "prometheusRule" "dashboard" }}
{{- $_ := set $labels (printf "metrics.%s.labels" $object) (index $values.metrics $object).labels }}
{{- end }}
{{- $own := include "setupkey.labels.own" (dict "root" . "component" "controller") | fromYaml }}
{{- range $path, $some := $labels }}
{{- range $label, $_ := $some }}
{{- if hasKey $own $label }}{{ fail (printf "the value %s may not hold the label %s, which the chart sets itself" $path $label) }}{{ end }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.service.enabled) }}
{{- fail "the value metrics.serviceMonitor.enabled needs metrics.service.enabled; to scrape without a Service, use metrics.podMonitor.enabled" }}
{{- end }}
{{- end }}

{{- define "setupkey.moved" -}}
{{- fail (printf "the value %s is now %s; after --reuse-values, try --reset-then-reuse-values" (first .) (last .)) }}
{{- end }}

{{- /* The values that may not be null, each section before what is in it. All others are empty by default. */ -}}
{{- define "setupkey.needed" -}}
{{- $needed := list "image" "image.repository" "image.pullPolicy" "crds" "crds.enabled" "scope" "serviceAccount"
      "serviceAccount.create" "serviceAccount.automountServiceAccountToken" "authorities" "authorities.allowInsecure"
      "peers" "peers.lifetime" "revisionHistoryLimit" "podDisruptionBudget" "podDisruptionBudget.enabled"
      "podDisruptionBudget.maxUnavailable" "networkPolicy" "networkPolicy.enabled" "networkPolicy.apiServerPorts"
      "networkPolicy.authorityPorts" "rbac" "rbac.create" "rbac.aggregate" "metrics" "metrics.service"
      "metrics.service.enabled" "metrics.serviceMonitor" "metrics.serviceMonitor.enabled" "metrics.serviceMonitor.interval"
      "metrics.podMonitor" "metrics.podMonitor.enabled" "metrics.podMonitor.interval" "metrics.prometheusRule"
      "metrics.prometheusRule.enabled" "metrics.prometheusRule.expiresSoonDays" "metrics.dashboard"
      "metrics.dashboard.enabled" "policies" "policies.guards" "policies.guards.setupKeyStatus" "policies.guards.setupKeys"
      "policies.guards.authorityStatus" "policies.guards.peers" "policies.guards.secrets" "policies.secretCopies"
      "policies.secretCopies.refused" "policies.requireUsageLimit" "policies.oneOffOnly" }}
{{- range list "controller" "enrollment" "api" }}
{{- $needed = concat $needed (list . (printf "%s.replicas" .) (printf "%s.log" .) (printf "%s.logFormat" .)) }}
{{- end }}
{{- range $component := list "enrollment" "api" }}
{{- range $part := list "enabled" "tls" "service" "service.type" "serviceAccount" "serviceAccount.create" }}
{{- $needed = append $needed (printf "%s.%s" $component $part) }}
{{- end }}
{{- end }}
{{- concat $needed (list "controller.metricsMaxKeys" "enrollment.failuresPerMinute"
      "enrollment.serviceAccount.automountServiceAccountToken" "api.issueTimeout") | toYaml }}
{{- end }}
