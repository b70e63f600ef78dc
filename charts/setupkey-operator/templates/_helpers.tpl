{{- /* The name of the chart, or of its alias in a parent chart. */ -}}
{{- define "setupkey.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{- /* The name of this installation. Services need a DNS label that begins with a letter, and the longest suffix is
       -enrollment-metrics. A name that had to be changed ends in a digest, so that two of them stay distinct. */ -}}
{{- define "setupkey.fullname" -}}
{{- $name := include "setupkey.name" . }}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $whole := .Values.fullnameOverride | default $own }}
{{- if and (le (len $whole) 44) (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $whole) -}}
{{ $whole }}
{{- else }}
{{- $plain := regexReplaceAll "[^-a-z0-9]" (lower $whole) "-" }}
{{- if not (regexMatch "^[a-z]" $plain) }}{{ $plain = printf "r-%s" $plain }}{{ end -}}
{{ printf "%s-%s" ($plain | trunc 35 | trimAll "-") ($whole | sha256sum | trunc 8) }}
{{- end }}
{{- end }}

{{- define "setupkey.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end }}

{{- /* The name of an object outside of the installation's own namespace. Dots separate its parts, and the first two have
       none. */ -}}
{{- define "setupkey.shared.name" -}}
{{ include "setupkey.fullname" .root }}.{{ include "setupkey.namespace" .root }}.{{ .suffix }}
{{- end }}

{{- /* The name of the objects of a component. */ -}}
{{- define "setupkey.component.name" -}}
{{- include "setupkey.fullname" .root }}{{ if ne .component "controller" }}-{{ .component }}{{ end -}}
{{- end }}

{{- /* The values of the ServiceAccount of a component. */ -}}
{{- define "setupkey.account.values" -}}
{{- (eq .component "controller" | ternary .root.Values.serviceAccount (index .root.Values .component).serviceAccount) | toYaml -}}
{{- end }}

{{- define "setupkey.account.name" -}}
{{- (include "setupkey.account.values" . | fromYaml).name | default (include "setupkey.component.name" .) -}}
{{- end }}

{{- /* The labels that select the pods of a component. */ -}}
{{- define "setupkey.selector" -}}
{{- dict "app.kubernetes.io/name" (include "setupkey.name" .root) "app.kubernetes.io/instance" .root.Release.Name
      "app.kubernetes.io/component" .component | toYaml }}
{{- end }}

{{- /* The labels that every object has, without those of the user. */ -}}
{{- define "setupkey.labels.own" -}}
{{- $root := .root }}
{{- dict "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/managed-by" $root.Release.Service
      "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63)
      | merge (include "setupkey.selector" . | fromYaml) | toYaml }}
{{- end }}

{{- define "setupkey.labels" -}}
{{- merge (include "setupkey.labels.own" . | fromYaml) (.labels | default dict) (.root.Values.extraLabels | default dict)
      | toYaml }}
{{- end }}

{{- /* The metadata of an object. Without a namespace, it belongs to the cluster. */ -}}
{{- define "setupkey.metadata" -}}
name: {{ .name | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels: {{- include "setupkey.labels" . | nindent 2 }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The metadata of an object of a component in the installation's own namespace. */ -}}
{{- define "setupkey.component.metadata" -}}
{{- $name := printf "%s%s" (include "setupkey.component.name" .) (.suffix | default "") }}
{{- merge (dict "name" (.name | default $name) "namespace" (include "setupkey.namespace" .root)) . | include "setupkey.metadata" }}
{{- end }}

{{- define "setupkey.image" -}}
{{- $image := .Values.image }}
{{- $repository := $image.repository }}
{{- with (.Values.global).imageRegistry | default $image.registry }}{{ $repository = printf "%s/%s" . $repository }}{{ end }}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The Secrets to pull the image with. A parent chart may list its own by their names alone. */ -}}
{{- define "setupkey.pullSecrets" -}}
{{- $secrets := list }}
{{- range concat ((.Values.global).imagePullSecrets | default list) (.Values.imagePullSecrets | default list) }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with uniq $secrets }}{{ toYaml . }}{{ end }}
{{- end }}
