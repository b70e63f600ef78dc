{{- /* The Deployment of a component: {root, component, args, env, ports, served, grace, volumes, mounts, token}. Each setting
       of its security stands here, and nowhere else. */ -}}
{{- define "setupkey.deployment" -}}
{{- $values := .root.Values }}
{{- $own := index $values .component }}
{{- $selector := include "setupkey.selector" . | fromYaml }}
{{- $labels := merge (include "setupkey.labels" . | fromYaml) ($own.podLabels | default dict) ($values.podLabels | default dict) }}
{{- $annotations := merge dict ($own.podAnnotations | default dict) ($values.podAnnotations | default dict)
      (dict "kubectl.kubernetes.io/default-container" .component) }}
{{- /* A component's value replaces the one for all pods. */ -}}
{{- $chosen := dict }}
{{- range list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "revisionHistoryLimit"
      "podSecurityContext" "securityContext" }}
{{- $isEmpty := has (index $own . | toJson) (list "null" `""` "{}" "[]") }}
{{- $_ := set $chosen . ($isEmpty | ternary (index $values .) (index $own .)) }}
{{- end }}
{{- range list "podSecurityContext" "securityContext" }}
{{- $_ := set $chosen . (include "setupkey.adapted" (dict "root" $.root "context" (index $chosen .)) | fromYaml) }}
{{- end }}
{{- include "setupkey.noneTwice" (list (printf "%s.extraEnv" .component) "name" .env $own.extraEnv) }}
{{- include "setupkey.noneTwice" (list (printf "%s.extraVolumes" .component) "name" .volumes $own.extraVolumes) }}
{{- include "setupkey.noneTwice" (list (printf "%s.extraVolumeMounts" .component) "mountPath" .mounts $own.extraVolumeMounts) -}}
apiVersion: apps/v1
kind: Deployment
metadata: {{- merge (dict "annotations" $own.deploymentAnnotations) . | include "setupkey.component.metadata" | nindent 2 }}
spec:
  replicas: {{ int $own.replicas }}
  revisionHistoryLimit: {{ int $chosen.revisionHistoryLimit }}
  {{- with $own.strategy }}
  strategy: {{- toYaml . | nindent 4 }}
  {{- end }}
  selector:
    matchLabels: {{- toYaml $selector | nindent 6 }}
  template:
    metadata:
      labels: {{- toYaml $labels | nindent 8 }}
      annotations: {{- toYaml $annotations | nindent 8 }}
    spec:
      serviceAccountName: {{ include "setupkey.account.name" . | quote }}
      automountServiceAccountToken: {{ .token }}
      {{- with include "setupkey.pullSecrets" .root }}
      imagePullSecrets: {{- . | nindent 8 }}
      {{- end }}
      {{- with $chosen.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      terminationGracePeriodSeconds: {{ int .grace }}
      {{- with $chosen.podSecurityContext }}
      securityContext: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.dnsPolicy }}
      dnsPolicy: {{ . | quote }}
      {{- end }}
      {{- with $own.dnsConfig }}
      dnsConfig: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.hostAliases }}
      hostAliases: {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .component | quote }}
          image: {{ include "setupkey.image" .root | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy | quote }}
          # The last of several equal flags counts.
          args: {{- concat .args ($own.extraArgs | default list) | toYaml | nindent 12 }}
          {{- with concat .env ($own.extraEnv | default list) }}
          env: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $own.extraEnvFrom }}
          envFrom: {{- toYaml . | nindent 12 }}
          {{- end }}
          ports: {{- toYaml .ports | nindent 12 }}
          livenessProbe: {{- dict "httpGet" (dict "path" "/healthz" "port" "http") "periodSeconds" 10
            | merge (deepCopy ($own.livenessProbe | default dict)) | toYaml | nindent 12 }}
          readinessProbe: {{- dict "httpGet" (dict "path" "/readyz" "port" "http") "periodSeconds" 5
            | merge (deepCopy ($own.readinessProbe | default dict)) | toYaml | nindent 12 }}
          {{- if .served }}
          lifecycle:
            # New connections keep arriving until every node knows that this pod is terminating.
            preStop:
              sleep:
                seconds: 5
          {{- end }}
          {{- with $chosen.securityContext }}
          securityContext: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with concat .mounts ($own.extraVolumeMounts | default list) }}
          volumeMounts: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $own.resources }}
          resources: {{- toYaml . | nindent 12 }}
          {{- end }}
      {{- with concat .volumes ($own.extraVolumes | default list) }}
      volumes: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $chosen.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $chosen.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $chosen.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- if $chosen.topologySpreadConstraints }}
        {{- toYaml $chosen.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- toYaml $selector | nindent 14 }}
        {{- end }}
{{- end }}

{{- /* A security context as OpenShift takes it, where that is wanted: its constraints refuse the chart's user and groups, and
       assign others. Those that a user has set stay: {root, context}. */ -}}
{{- define "setupkey.adapted" -}}
{{- $context := .context | default dict }}
{{- $adapt := (((.root.Values.global).compatibility).openshift).adaptSecurityContext | default "auto" }}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") (.root.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}
{{- range $field := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- if eq (index $context $field | toJson) "65532" }}{{ $context = omit $context $field }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- /* Refuses an entry that is in a user's list and in ours: {path, field, ours, theirs}. */ -}}
{{- define "setupkey.noneTwice" -}}
{{- $path := index . 0 }}
{{- $field := index . 1 }}
{{- $seen := list }}
{{- range concat (index . 2) (index . 3 | default list) }}
{{- $name := index . $field }}
{{- if has $name $seen }}{{ fail (printf "the value %s may not hold %s: it is there already, or the chart sets it itself" $path $name) }}{{ end }}
{{- $seen = append $seen $name }}
{{- end }}
{{- end }}

{{- /* What reads and verifies a certificate: the flags, the volume and its mount of a component. */ -}}
{{- define "setupkey.tls" -}}
{{- $secret := (index .root.Values .component).tls.secretName }}
{{- $context := (index .root.Values .component).podSecurityContext | default .root.Values.podSecurityContext }}
{{- $context = include "setupkey.adapted" (dict "root" .root "context" $context) | fromYaml }}
{{- if $secret }}
{{- /* 0440, for the group of the volume. Without one, all may read: there is one user in the container. */ -}}
{{- $mode := kindIs "invalid" $context.fsGroup | ternary 292 288 }}
{{- dict "args" (list "--tls-cert=/tls/tls.crt" "--tls-key=/tls/tls.key")
      "volumes" (list (dict "name" "tls" "secret" (dict "secretName" $secret "defaultMode" $mode)))
      "mounts" (list (dict "name" "tls" "mountPath" "/tls" "readOnly" true)) | toYaml }}
{{- else }}
{{- dict "args" list "volumes" list "mounts" list | toYaml }}
{{- end }}
{{- end }}

{{- /* The Service that a component is reached by. */ -}}
{{- define "setupkey.service" -}}
{{- $own := index .root.Values .component }}
apiVersion: v1
kind: Service
metadata: {{- merge (dict "annotations" $own.service.annotations) . | include "setupkey.component.metadata" | nindent 2 }}
spec:
  type: {{ $own.service.type | quote }}
  {{- if ne $own.service.type "ClusterIP" }}
  # Preserves client addresses, which the limits of one address need.
  externalTrafficPolicy: Local
  {{- end }}
  {{- with include "setupkey.families" $own.service | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  selector: {{- include "setupkey.selector" . | nindent 4 }}
  ports:
    - name: {{ .served | quote }}
      port: {{ int (ternary 443 80 (not (empty $own.tls.secretName))) }}
      targetPort: {{ .served | quote }}
{{- end }}

{{- define "setupkey.families" -}}
{{- with .ipFamilyPolicy }}
ipFamilyPolicy: {{ . | quote }}
{{- end }}
{{- with .ipFamilies }}
ipFamilies: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What stands beside the Deployment of a component: {root, component, served, egress, honorLabels}. */ -}}
{{- define "setupkey.beside" -}}
{{- $values := .root.Values }}
{{- $selector := include "setupkey.selector" . | fromYaml }}
{{- if $values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "setupkey.component.metadata" . | nindent 2 }}
spec:
  {{- $least := $values.podDisruptionBudget.minAvailable }}
  {{- if has (toJson $least) (list "null" `""`) }}
  maxUnavailable: {{ toJson $values.podDisruptionBudget.maxUnavailable }}
  {{- else }}
  minAvailable: {{ toJson $least }}
  {{- end }}
  selector:
    matchLabels: {{- toYaml $selector | nindent 6 }}
{{- end }}
{{- if $values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "setupkey.component.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- toYaml $selector | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- with .served }}
    - ports:
        - port: {{ . | quote }}
          protocol: TCP
    {{- end }}
    - ports:
        - port: http
          protocol: TCP
      {{- with $values.networkPolicy.metricsFrom }}
      from: {{- toYaml . | nindent 8 }}
      {{- end }}
  egress:
    - ports:
        - port: 53
          protocol: UDP
        - port: 53
          protocol: TCP
        # The API server, and NetBird from the controller.
        {{- range concat $values.networkPolicy.apiServerPorts (.egress | default list) | uniq }}
        - port: {{ int . }}
          protocol: TCP
        {{- end }}
{{- end }}
{{- if $values.metrics.service.enabled }}
---
apiVersion: v1
kind: Service
metadata: {{- merge (dict "suffix" "-metrics" "annotations" $values.metrics.service.annotations) . | include "setupkey.component.metadata" | nindent 2 }}
spec:
  {{- with include "setupkey.families" $values.metrics.service | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  selector: {{- toYaml $selector | nindent 4 }}
  ports:
    - name: http
      port: 8081
      targetPort: http
{{- end }}
{{- range $kind, $field := dict "ServiceMonitor" "endpoints" "PodMonitor" "podMetricsEndpoints" }}
{{- $monitor := index $values.metrics (untitle $kind) }}
{{- if $monitor.enabled }}
{{- $endpoint := dict "port" "http" "interval" $monitor.interval }}
{{- /* The namespace label of a series is that of the SetupKey, not of the operator. */ -}}
{{- if $.honorLabels }}{{ $_ := set $endpoint "honorLabels" true }}{{ end }}
{{- range list "scrapeTimeout" "relabelings" "metricRelabelings" }}
{{- if index $monitor . }}{{ $_ := set $endpoint . (index $monitor .) }}{{ end }}
{{- end }}
---
apiVersion: monitoring.coreos.com/v1
kind: {{ $kind | quote }}
metadata: {{- merge (dict "labels" $monitor.labels) $ | include "setupkey.component.metadata" | nindent 2 }}
spec:
  selector:
    matchLabels: {{- toYaml $selector | nindent 6 }}
  {{ $field }}: {{- list $endpoint | toYaml | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "setupkey.account" -}}
{{- $account := include "setupkey.account.values" . | fromYaml }}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata: {{- merge (dict "name" (include "setupkey.account.name" .) "annotations" $account.annotations) . | include "setupkey.component.metadata" | nindent 2 }}
# Pods of the chart that need a token ask for it themselves.
automountServiceAccountToken: {{ $account.automountServiceAccountToken | default false }}
{{- end }}
{{- end }}
