{{- define "idempotency.labels" -}}
app.kubernetes.io/name: idempotencyd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: idempotency-gateway
{{- end }}

{{- define "idempotency.selector" -}}
app.kubernetes.io/name: idempotencyd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "idempotency.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the filter's cluster is called, and where it leads. */}}
{{- define "idempotency.host" -}}
{{ .Release.Name }}.{{ .Release.Namespace }}.svc.cluster.local
{{- end }}

{{/* The name in the service's certificate. */}}
{{- define "idempotency.name" -}}
{{ .Values.tls.name | default (include "idempotency.host" .) }}
{{- end }}

{{/* The environment and the volumes of every container with the program. */}}
{{- define "idempotency.environment" -}}
{{- if ne .Values.store.kind "embedded" -}}
- name: IDEMPOTENCYD_STORE
  valueFrom:
    secretKeyRef: { name: {{ .Values.store.urlSecret.name }}, key: {{ .Values.store.urlSecret.key }} }
{{- else -}}
- name: IDEMPOTENCYD_DATA_DIR
  value: /var/lib/idempotency/data
{{- end }}
{{- end }}

{{- define "idempotency.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "idempotency.pod" -}}
metadata:
  labels:
    {{- include "idempotency.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .Release.Name }}
  automountServiceAccountToken: false
  # A Service of this name would otherwise set IDEMPOTENCYD_PORT and the like, and the program refuses to start with
  # a variable of such a name that is no setting of it.
  enableServiceLinks: false
  # Longer than the drain, --shutdown-timeout (10s) and the ten seconds that the store has.
  terminationGracePeriodSeconds: {{ add .Values.drainSeconds 55 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- if ne .Values.store.kind "embedded" }}
  # One node or zone that goes away takes as few of them along as can be.
  topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "idempotency.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
  {{- if and (eq .Values.store.kind "postgres") .Values.store.migrate }}
  initContainers:
  # Any number of pods may do this at the same time; services of the release before go on meanwhile.
  - name: migrate
    image: {{ include "idempotency.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [migrate]
    env:
    {{- include "idempotency.environment" . | nindent 4 }}
    securityContext:
      {{- include "idempotency.security" . | nindent 6 }}
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
  {{- end }}
  containers:
  - name: idempotencyd
    image: {{ include "idempotency.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
    - serve
    - --listen=0.0.0.0:7480
    # For `kubectl exec … -- idempotencyd keys list --url unix:/run/idempotency/sock`.
    - --listen=unix:/run/idempotency/sock
    {{- if .Values.page }}
    - --ui-listen=127.0.0.1:7482
    {{- end }}
    - --gateway-token-file=/etc/idempotency/tokens/gateway
    - --operator-token-file=/etc/idempotency/tokens/operator
    {{- if .Values.tokens.upstream }}
    - --upstream-token-file=/etc/idempotency/tokens/upstream
    {{- end }}
    {{- if .Values.tls.secret }}
    # Read again when they change.
    - --tls-cert=/etc/idempotency/tls/tls.crt
    - --tls-key=/etc/idempotency/tls/tls.key
    {{- if .Values.tls.clients }}
    - --tls-client-ca=/etc/idempotency/tls/ca.crt
    {{- end }}
    {{- if .Values.tls.roles }}
    - --tls-roles=/etc/idempotency/roles/roles
    {{- end }}
    {{- end }}
    {{- if .Values.encryption.secret }}
    - --encryption-keys=/etc/idempotency/keys/{{ .Values.encryption.key }}
    {{- end }}
    - --log-format=json
    {{- range $name, $value := .Values.settings }}
    - --{{ $name }}={{ $value }}
    {{- end }}
    env:
    {{- include "idempotency.environment" . | nindent 4 }}
    ports:
    - { name: http2-api, containerPort: 7480 }
    # The process answers. A store that is away is no reason to start again.
    livenessProbe:
      httpGet: { path: /healthz, port: http2-api{{ if .Values.tls.secret }}, scheme: HTTPS{{ end }} }
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    # The store can work.
    readinessProbe:
      httpGet: { path: /readyz, port: http2-api{{ if .Values.tls.secret }}, scheme: HTTPS{{ end }} }
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    # An embedded store reads its journal first.
    startupProbe:
      httpGet: { path: /healthz, port: http2-api{{ if .Values.tls.secret }}, scheme: HTTPS{{ end }} }
      periodSeconds: 1
      failureThreshold: 300
    {{- if .Values.drainSeconds }}
    lifecycle:
      preStop:
        sleep: { seconds: {{ .Values.drainSeconds }} }
    {{- end }}
    securityContext:
      {{- include "idempotency.security" . | nindent 6 }}
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    volumeMounts:
    - { name: tokens, mountPath: /etc/idempotency/tokens, readOnly: true }
    - { name: run, mountPath: /run/idempotency }
    {{- if .Values.tls.secret }}
    - { name: tls, mountPath: /etc/idempotency/tls, readOnly: true }
    {{- if .Values.tls.roles }}
    - { name: roles, mountPath: /etc/idempotency/roles, readOnly: true }
    {{- end }}
    {{- end }}
    {{- if .Values.encryption.secret }}
    - { name: keys, mountPath: /etc/idempotency/keys, readOnly: true }
    {{- end }}
    {{- if eq .Values.store.kind "embedded" }}
    - { name: records, mountPath: /var/lib/idempotency }
    {{- end }}
  volumes:
  # 288 is 0440, which not every reader of YAML takes for octal.
  - name: tokens
    secret: { secretName: {{ .Values.tokens.secret }}, defaultMode: 288 }
  - name: run
    emptyDir: { medium: Memory, sizeLimit: 1Mi }
  {{- if .Values.tls.secret }}
  - name: tls
    secret: { secretName: {{ .Values.tls.secret }}, defaultMode: 288 }
  {{- if .Values.tls.roles }}
  - name: roles
    configMap: { name: {{ .Release.Name }}-roles }
  {{- end }}
  {{- end }}
  {{- if .Values.encryption.secret }}
  - name: keys
    secret: { secretName: {{ .Values.encryption.secret }}, defaultMode: 288 }
  {{- end }}
{{- end }}
