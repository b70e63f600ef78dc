{{- /* The rights of the controller. Granted once for the cluster, or once per namespace. */ -}}
{{- define "setupkey.controller.rules" -}}
# Patch only sets our own finalizer: spec, labels and annotations of a SetupKey belong to its author.
- apiGroups: [setupkey.dev]
  resources: [setupkeys]
  verbs: [get, list, watch, patch]
- apiGroups: [setupkey.dev]
  resources: [setupkeys/status]
  verbs: [patch]
- apiGroups: [setupkey.dev]
  resources: [authorities{{ if not .Values.scope.namespaces }}, clusterauthorities{{ end }}]
  verbs: [list, watch]
- apiGroups: [setupkey.dev]
  resources: [authorities/status{{ if not .Values.scope.namespaces }}, clusterauthorities/status{{ end }}]
  verbs: [patch]
{{- if not .Values.scope.namespaces }}
# The labels of a namespace decide which ClusterAuthority its keys may use.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
# Patch only removes our own finalizer: the spec of a Peer cannot be changed.
- apiGroups: [setupkey.dev]
  resources: [peers]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [setupkey.dev]
  resources: [peers/status]
  verbs: [patch]
# RBAC has no labels and no "metadata only", and users choose the names of Secrets; see docs/security.md.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* The rights of the enrollment service. Granted once for the cluster, or once per namespace. None on Secrets: it
       recognises a key by its digest. */ -}}
{{- define "setupkey.enrollment.rules" -}}
- apiGroups: [setupkey.dev]
  resources: [setupkeys]
  verbs: [get, list, watch]
# The ledger. A use is counted under the resourceVersion it was decided on.
- apiGroups: [setupkey.dev]
  resources: [setupkeys/status]
  verbs: [update]
# Patch only removes our own finalizer: the spec of a Peer cannot be changed.
- apiGroups: [setupkey.dev]
  resources: [peers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [setupkey.dev]
  resources: [peers/status]
  verbs: [patch]
{{- end }}

{{- /* Grants a component its rules: {root, component}. Several installations may work in one namespace, so the names of
       Roles there hold the installation's own namespace too. */ -}}
{{- define "setupkey.grant" -}}
{{- $name := include "setupkey.shared.name" (dict "root" .root "suffix" .component) }}
{{- $rules := include (printf "setupkey.%s.rules" .component) .root }}
{{- range .root.Values.scope.namespaces | default (list "") }}
{{- $kind := ternary "Role" "ClusterRole" (ne . "") }}
{{- $metadata := merge (dict "name" $name "namespace" .) $ | include "setupkey.metadata" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind | quote }}
metadata: {{- $metadata | nindent 2 }}
rules: {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ printf "%sBinding" $kind | quote }}
metadata: {{- $metadata | nindent 2 }}
{{ include "setupkey.bound" (merge (dict "kind" $kind "name" $name) $) }}
{{- end }}
{{- end }}

{{- /* What binds a role to the account of a component. */ -}}
{{- define "setupkey.bound" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind | quote }}
  name: {{ .name | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ include "setupkey.account.name" . | quote }}
    namespace: {{ include "setupkey.namespace" .root | quote }}
{{- end }}

{{- /* The metadata of a role that these roles of the cluster include: {root, role, to}. */ -}}
{{- define "setupkey.aggregated" -}}
{{- $labels := dict }}
{{- range .to }}{{ $_ := set $labels (printf "rbac.authorization.k8s.io/aggregate-to-%s" .) "true" }}{{ end }}
{{- include "setupkey.metadata" (dict "root" .root "component" "controller" "labels" $labels
      "name" (include "setupkey.shared.name" (dict "root" .root "suffix" .role))) }}
{{- end }}
