{{- /* The account of a component, as the API server names it. */ -}}
{{- define "setupkey.policy.account" -}}
system:serviceaccount:{{ include "setupkey.namespace" .root }}:{{ include "setupkey.account.name" . }}
{{- end }}

{{- /* The metadata of a policy, and of its binding: {root, policy}. */ -}}
{{- define "setupkey.policy.metadata" -}}
{{- include "setupkey.metadata" (dict "root" .root "component" "controller"
      "name" (include "setupkey.shared.name" (dict "root" .root "suffix" .policy))) }}
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
metadata: {{- include "setupkey.policy.metadata" . | nindent 2 }}
spec:
  policyName: {{ include "setupkey.shared.name" (dict "root" .root "suffix" .policy) | quote }}
  validationActions: [Deny]
{{- end }}
