{{- define "setupkey.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "setupkey.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "setupkey.name" .) -}}
{{- end }}

{{- define "setupkey.selector" -}}
app.kubernetes.io/name: setupkey-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "setupkey.labels" -}}
{{ include "setupkey.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "setupkey.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The rights of the controller. Granted once for the cluster, or once per namespace. */ -}}
{{- define "setupkey.rules" -}}
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

{{- define "setupkey.enrollment.selector" -}}
app.kubernetes.io/name: setupkey-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: enrollment
{{- end }}

{{- define "setupkey.enrollment.labels" -}}
{{ include "setupkey.labels" . | replace "component: controller" "component: enrollment" }}
{{- end }}

{{- define "setupkey.enrollment.name" -}}
{{ include "setupkey.name" . | trunc 44 | trimSuffix "-" }}-enrollment
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

{{- /* Policies belong to the cluster, so their names hold the namespace too: dots separate its parts, and a namespace has
       none. */ -}}
{{- define "setupkey.policy.name" -}}
{{ .root.Release.Name }}.{{ .root.Release.Namespace }}.{{ .policy }}
{{- end }}

{{- /* Two releases with different namespaces must not refuse each other's accounts. */ -}}
{{- define "setupkey.policy.namespaces" -}}
{{- with .Values.scope.namespaces -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{ toJson . }}
{{- end }}
{{- end }}

{{- /* Accounts that the policies let through. */ -}}
{{- define "setupkey.policy.exempt" -}}
{{- $users := list }}
{{- $groups := list }}
{{- range .Values.policies.guards.exempt }}
{{- if eq .kind "Group" }}
{{- $groups = append $groups .name }}
{{- else if eq .kind "ServiceAccount" }}
{{- $users = append $users (printf "system:serviceaccount:%s:%s" .namespace .name) }}
{{- else }}
{{- $users = append $users .name }}
{{- end }}
{{- end }}
{{- if or $users $groups -}}
matchConditions:
  {{- if $users }}
  - name: not-an-exempt-user
    expression: >-
      !(request.userInfo.username in {{ toJson $users }})
  {{- end }}
  {{- if $groups }}
  - name: in-no-exempt-group
    expression: >-
      !has(request.userInfo.groups) || !request.userInfo.groups.exists(group, group in {{ toJson $groups }})
  {{- end }}
{{- end }}
{{- end }}

{{- define "setupkey.policy.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "setupkey.policy.name" . }}
  labels: {{- include "setupkey.labels" .root | nindent 4 }}
spec:
  policyName: {{ include "setupkey.policy.name" . }}
  validationActions: [Deny]
{{- end }}
