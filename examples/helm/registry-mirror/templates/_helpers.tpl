{{- define "mirror.name" -}}
{{- if contains "registry-mirror" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-registry-mirror" (.Release.Name | trunc 34) }}{{ end }}
{{- end }}

{{- define "mirror.selector" -}}
app.kubernetes.io/name: registry-mirror
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of the mirror's own pods, on one line. */}}
{{- define "mirror.replicas" -}}
{{ include "mirror.selector" . | fromYaml | merge (dict "app.kubernetes.io/component" "mirror") | toJson }}
{{- end }}

{{- define "mirror.labels" -}}
{{ include "mirror.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mirror.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "mirror.serviceAccount" -}}
{{ if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "mirror.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* mirror.toml: what was written, and the bucket. */}}
{{- define "mirror.config" -}}
{{- with .Values.config }}{{ . | trimSuffix "\n" }}
{{ end }}
{{- with .Values.bucket }}{{ if .name }}
[store.bucket]
name = {{ .name | quote }}
endpoint = {{ .endpoint | quote }}
region = {{ .region | quote }}
prefix = {{ .prefix | quote }}
max_size = {{ .maxSize | quote }}
{{- if .peersSecret }}
peers_secret = "file:/etc/registry-mirror/peers/peers_secret"
{{- end }}
{{ end }}{{ end }}
{{- end }}

{{/* The init container that sets up the node it runs on, or takes that back; the only one that is root. */}}
{{- define "mirror.setup" -}}
- name: {{ if .Values.undo }}undo{{ else }}setup{{ end }}
  image: {{ include "mirror.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - setup
    - {{ .Values.nodes.client }}
    - --root
    - /host
    {{- if .Values.undo }}
    - --undo
    {{- else }}
    - --apply
    - --mirror
    - {{ if .Values.nodes.mirror }}{{ .Values.nodes.mirror }}{{ else if eq .Values.kind "DaemonSet" }}http://127.0.0.1:{{ .Values.service.port }}{{ else }}{{ fail "nodes.mirror: say where nodes reach the mirror, such as http://127.0.0.1:30500 with service.type=NodePort" }}{{ end }}
    {{- range .Values.nodes.registries }}
    - --for
    - {{ . }}
    {{- end }}
    {{- end }}
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    # Files of the node are written, and get back the owner that they had.
    capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER]}
  volumeMounts:
    - {name: host, mountPath: /host}
{{- end }}

{{- define "mirror.pod" -}}
metadata:
  labels:
    {{- include "mirror.labels" . | nindent 4 }}
    app.kubernetes.io/component: mirror
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "mirror.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "mirror.serviceAccount" . }}
  automountServiceAccountToken: false
  # The variables that it makes of Services would be mistaken for settings.
  enableServiceLinks: false
  # A little longer than [server] drain.
  terminationGracePeriodSeconds: 45
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{ toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  {{- if and (eq .Values.kind "DaemonSet") .Values.nodes.setup }}
  initContainers:
    {{- include "mirror.setup" . | nindent 4 }}
  {{- end }}
  containers:
    - name: mirror
      image: {{ include "mirror.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/registry-mirror/config/mirror.toml, --listen, "0.0.0.0:5000", --admin, "0.0.0.0:5080", --store, /var/cache/registry-mirror]
      env:
        {{- with .Values.store.maxSize }}
        - {name: REGISTRY_MIRROR_STORE_MAX_SIZE, value: {{ . | quote }}}
        {{- end }}
        {{- if and .Values.bucket.name .Values.bucket.peersSecret }}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: REGISTRY_MIRROR_STORE_BUCKET_ADVERTISE, value: "http://$(POD_IP):5000"}
        {{- end }}
        # Commands in the container find the daemon by it.
        - {name: REGISTRY_MIRROR_CONFIG, value: /etc/registry-mirror/config/mirror.toml}
        - {name: REGISTRY_MIRROR_STORE_PATH, value: /var/cache/registry-mirror}
      {{- with .Values.bucket.credentialsSecret }}
      envFrom: [{secretRef: {name: {{ . }}}}]
      {{- end }}
      ports:
        - name: pull
          containerPort: 5000
          {{- if eq .Values.kind "DaemonSet" }}
          hostPort: {{ .Values.service.port }}
          hostIP: 127.0.0.1
          {{- end }}
        - {name: admin, containerPort: 5080}
      # A large store takes its time to open.
      startupProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 2, failureThreshold: 300}
      livenessProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 20, timeoutSeconds: 5}
      readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 5, timeoutSeconds: 5}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{ toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: store, mountPath: /var/cache/registry-mirror}
        - {name: config, mountPath: /etc/registry-mirror/config, readOnly: true}
        {{- if .Values.secret }}
        - {name: secret, mountPath: /etc/registry-mirror/secret, readOnly: true}
        {{- end }}
        {{- if .Values.bucket.peersSecret }}
        - {name: peers, mountPath: /etc/registry-mirror/peers, readOnly: true}
        {{- end }}
  volumes:
    - name: store
      {{- if .Values.store.hostPath }}
      hostPath: {path: {{ .Values.store.hostPath }}, type: Directory}
      {{- else if or .Values.bucket.name (eq .Values.kind "DaemonSet") }}
      emptyDir: {}
      {{- else }}
      persistentVolumeClaim: {claimName: {{ .Values.store.existingClaim | default (include "mirror.name" .) }}}
      {{- end }}
    - {name: config, configMap: {name: {{ include "mirror.name" . }}}}
    {{- with .Values.secret }}
    - {name: secret, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
    {{- with .Values.bucket.peersSecret }}
    - {name: peers, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
    {{- if and (eq .Values.kind "DaemonSet") .Values.nodes.setup }}
    - {name: host, hostPath: {path: /, type: Directory}}
    {{- end }}
{{- end }}
