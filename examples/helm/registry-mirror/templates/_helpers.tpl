{{/* As a Service may be called: without a full stop, a letter comes first, and it is no longer than that with more behind
     it. Where that takes something from the release's own name, a hash keeps it apart from others that lose the same. */}}
{{- define "mirror.name" -}}
{{- $release := replace "." "-" .Release.Name }}
{{- if regexMatch "^[0-9]" $release }}{{ $release = printf "m-%s" $release }}{{ end }}
{{- $isNamed := contains "registry-mirror" $release }}
{{- $room := $isNamed | ternary 50 34 }}
{{- if or (gt (len $release) $room) (ne $release .Release.Name) }}
{{- $release = printf "%s-%s" ($release | trunc (sub $room 9 | int) | trimSuffix "-") (sha256sum .Release.Name | trunc 8) }}
{{- end }}
{{- $release }}{{ if not $isNamed }}-registry-mirror{{ end }}
{{- end }}

{{/* What may be a number, which would be printed as 2e+10. */}}
{{- define "mirror.text" -}}
{{ if kindIs "float64" . }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* A size: a number alone is one of bytes. */}}
{{- define "mirror.size" -}}
{{- $size := include "mirror.text" . }}
{{- $size }}{{ if regexMatch "^[0-9]*[1-9][0-9]*$" $size }}B{{ end }}
{{- end }}

{{/* A table of a table as JSON, in whatever form it was written; none where it is something else. */}}
{{- define "mirror.table" -}}
{{- $table := get (index . 0) (index . 1) }}
{{- if kindIs "map" $table }}{{ toJson $table }}{{ else }}{}{{ end }}
{{- end }}

{{/* [server] of the settings that were written. */}}
{{- define "mirror.ownServer" -}}
{{ include "mirror.table" (list (fromToml .Values.config) "server") }}
{{- end }}

{{- define "mirror.scheme" -}}
{{- $tls := include "mirror.table" (list (include "mirror.ownServer" . | fromJson) "tls") | fromJson }}
{{- if or .Values.tls.secret $tls.cert }}https{{ else }}http{{ end }}
{{- end }}

{{- define "mirror.anyAddress" -}}
{{ eq .Values.ipFamily "IPv6" | ternary "[::]" "0.0.0.0" }}
{{- end }}

{{/* How many seconds a duration such as 1m 30s has. */}}
{{- define "mirror.seconds" -}}
{{- $all := 0 }}
{{- range $unit, $seconds := dict "h" 3600 "m" 60 "s" 1 }}
{{- /* Not int, to which 010 is eight and 08 nothing. */}}
{{- $all = add $all (mul (regexFind (printf "[0-9]+%s" $unit) $ | trimSuffix $unit | atoi) $seconds) }}
{{- end }}
{{- $all }}
{{- end }}

{{/* Whether the chart makes a claim: for the store of a Deployment that is nowhere else. */}}
{{- define "mirror.makesClaim" -}}
{{ if not (or .Values.store.hostPath .Values.store.existingClaim .Values.bucket.name (eq .Values.kind "DaemonSet")) }}yes{{ end }}
{{- end }}

{{/* The claim that it made before, where the store is somewhere else now and there is a cluster to ask. */}}
{{- define "mirror.formerClaim" -}}
{{- $claim := dict }}
{{- if not (include "mirror.makesClaim" .) }}
{{- $claim = lookup "v1" "PersistentVolumeClaim" .Release.Namespace (include "mirror.name" .) }}
{{- end }}
{{- if eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $claim) .Release.Name }}{{ toJson $claim }}{{ else }}{}{{ end }}
{{- end }}

{{/* Whether nodes are set up, or what was written on them is taken back. */}}
{{- define "mirror.touchesNodes" -}}
{{ if or .Values.nodes.setup .Values.undo }}yes{{ end }}
{{- end }}

{{- define "mirror.selector" -}}
app.kubernetes.io/name: registry-mirror
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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
{{- $tag := .Values.image.tag }}
{{- if not (or $tag .Values.image.digest) }}{{ $tag = .Chart.AppVersion }}{{ end }}
{{- .Values.image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "mirror.serviceAccount" -}}
{{ if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "mirror.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* The label of pods that set up nodes, or take that back: for which client. */}}
{{- define "mirror.setsUp" -}}
registry-mirror/sets-up: {{ .Values.nodes.client }}
{{- end }}

{{/* Such pods of other releases, as anti-affinity has them: of another name, and of the same name in another namespace. */}}
{{- define "mirror.othersThatSetUp" -}}
{{- $client := include "mirror.setsUp" . | fromYaml }}
{{- $others := dict "key" "app.kubernetes.io/instance" "operator" "NotIn" "values" (list .Release.Name) }}
{{- $elsewhere := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (list .Release.Namespace) }}
{{- $named := dict "app.kubernetes.io/instance" .Release.Name | merge (deepCopy $client) }}
{{- list
  (dict "topologyKey" "kubernetes.io/hostname" "namespaceSelector" dict "labelSelector" (dict "matchLabels" $client "matchExpressions" (list $others)))
  (dict "topologyKey" "kubernetes.io/hostname" "namespaceSelector" (dict "matchExpressions" (list $elsewhere)) "labelSelector" (dict "matchLabels" $named)) | toJson }}
{{- end }}

{{/* What was written, and which pods are kept apart: those of a Deployment that keep their stores in the same folder of a
     node, since one store is for one daemon; and those that set up nodes. */}}
{{- define "mirror.affinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) }}
{{- $apart := list }}
{{- if and .Values.store.hostPath (eq .Values.kind "Deployment") (gt (int .Values.replicas) 1) }}
{{- $apart = append $apart (dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "mirror.replicas" . | fromJson))) }}
{{- end }}
{{- if and (eq .Values.kind "DaemonSet") (include "mirror.touchesNodes" .) }}
{{- $apart = concat $apart (include "mirror.othersThatSetUp" . | fromJsonArray) }}
{{- end }}
{{- if $apart }}
{{- $theirs := include "mirror.table" (list $affinity "podAntiAffinity") | fromJson }}
{{- $key := "requiredDuringSchedulingIgnoredDuringExecution" }}
{{- $_ := set $affinity "podAntiAffinity" (set $theirs $key (concat (get $theirs $key | default list) $apart)) }}
{{- end }}
{{- with $affinity }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* mirror.toml: what was written, certificates, and the bucket. */}}
{{- define "mirror.config" -}}
{{- with .Values.config }}{{ . | trimSuffix "\n" }}
{{ end }}
{{- if .Values.tls.secret }}
[server.tls]
cert = "/etc/registry-mirror/tls/tls.crt"
key = "/etc/registry-mirror/tls/tls.key"
{{ end }}
{{- with .Values.bucket }}{{ if .name }}
[store.bucket]
name = {{ .name | quote }}
endpoint = {{ .endpoint | quote }}
region = {{ .region | quote }}
prefix = {{ .prefix | quote }}
max_size = {{ include "mirror.size" .maxSize | quote }}
redirect = {{ .redirect | toJson }}
redirect_ttl = {{ .redirectTtl | quote }}
leases = {{ .leases | quote }}
{{- if or .ca.configMap .ca.secret }}
ca = "/etc/registry-mirror/bucket-ca/{{ .ca.key }}"
{{- end }}
{{- if .peersSecret }}
peers_secret = "file:/etc/registry-mirror/peers/peers_secret"
{{- end }}
{{ end }}{{ end }}
{{- end }}

{{/* The init container that sets up the node it runs on, or takes that back; the only one that is root. */}}
{{- define "mirror.setup" -}}
- name: {{ if .Values.undo }}undo{{ else }}setup{{ end }}
  image: {{ include "mirror.image" . | quote }}
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
    - {{ if .Values.nodes.mirror }}{{ .Values.nodes.mirror | quote }}{{ else if and (eq .Values.kind "DaemonSet") (eq .Values.ipFamily "IPv4") }}{{ include "mirror.scheme" . }}://127.0.0.1:{{ int .Values.service.port }}{{ else }}{{ fail "nodes.mirror: say where nodes reach the mirror, such as http://127.0.0.1:30500 with service.type=NodePort" }}{{ end }}
    {{- if .Values.tls.ca }}
    - --mirror-ca
    - {{ printf "/tls/%s" .Values.tls.ca | quote }}
    {{- end }}
    {{- range .Values.nodes.registries }}
    - --for
    - {{ . | quote }}
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
  {{- with .Values.nodes.resources }}
  resources: {{ toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: host, mountPath: /host}
    {{- if and .Values.tls.ca (not .Values.undo) }}
    - {name: authority, mountPath: /tls, readOnly: true}
    {{- end }}
{{- end }}

{{/* The volumes for that. Of the Secret only what is no secret. */}}
{{- define "mirror.setupVolumes" -}}
- {name: host, hostPath: {path: /, type: Directory}}
{{- if and .Values.tls.ca (not .Values.undo) }}
- {name: authority, secret: {secretName: {{ .Values.tls.secret | quote }}, items: [{key: {{ .Values.tls.ca | quote }}, path: {{ .Values.tls.ca | quote }}}]}}
{{- end }}
{{- end }}

{{- define "mirror.pod" -}}
metadata:
  labels:
    {{- include "mirror.labels" . | nindent 4 }}
    app.kubernetes.io/component: mirror
    {{- if and (eq .Values.kind "DaemonSet") (include "mirror.touchesNodes" .) }}
    {{- include "mirror.setsUp" . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "mirror.config" . | sha256sum | quote }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "mirror.serviceAccount" . | quote }}
  automountServiceAccountToken: false
  # The variables that it makes of Services would be mistaken for settings.
  enableServiceLinks: false
  # A little longer than pulls may take to end.
  terminationGracePeriodSeconds: {{ add 15 (include "mirror.seconds" .Values.drain) }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "mirror.affinity" . }}
  affinity: {{ . | nindent 4 }}
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
  {{- if and (eq .Values.kind "DaemonSet") (include "mirror.touchesNodes" .) }}
  initContainers:
    {{- include "mirror.setup" . | nindent 4 }}
  {{- end }}
  containers:
    - name: mirror
      image: {{ include "mirror.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/registry-mirror/config/mirror.toml, --listen, "{{ include "mirror.anyAddress" . }}:5000", --admin, "{{ include "mirror.anyAddress" . }}:5080", --store, /var/cache/registry-mirror]
      env:
        {{- with .Values.store.maxSize }}
        - {name: REGISTRY_MIRROR_STORE_MAX_SIZE, value: {{ include "mirror.size" . | quote }}}
        {{- end }}
        - {name: REGISTRY_MIRROR_SERVER_DRAIN, value: {{ .Values.drain | quote }}}
        {{- if and .Values.bucket.name .Values.bucket.peersSecret }}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: REGISTRY_MIRROR_STORE_BUCKET_ADVERTISE, value: "http://{{ eq .Values.ipFamily "IPv6" | ternary "[$(POD_IP)]" "$(POD_IP)" }}:5000"}
        {{- end }}
        # Commands in the container find the daemon by it.
        - {name: REGISTRY_MIRROR_CONFIG, value: /etc/registry-mirror/config/mirror.toml}
        - {name: REGISTRY_MIRROR_STORE_PATH, value: /var/cache/registry-mirror}
        {{- with .Values.bucket }}{{ if and .credentialsSecret .credentialsKeys.id }}
        - {name: AWS_ACCESS_KEY_ID, valueFrom: {secretKeyRef: {name: {{ .credentialsSecret | quote }}, key: {{ .credentialsKeys.id | quote }}}}}
        - {name: AWS_SECRET_ACCESS_KEY, valueFrom: {secretKeyRef: {name: {{ .credentialsSecret | quote }}, key: {{ .credentialsKeys.secret | quote }}}}}
        {{- end }}{{ end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- if and .Values.bucket.credentialsSecret (not .Values.bucket.credentialsKeys.id) }}
      envFrom: [{secretRef: {name: {{ .Values.bucket.credentialsSecret | quote }}}}]
      {{- end }}
      ports:
        - name: pull
          containerPort: 5000
          {{- if and (eq .Values.kind "DaemonSet") (eq .Values.ipFamily "IPv4") }}
          hostPort: {{ int .Values.service.port }}
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
        {{- if .Values.tls.secret }}
        - {name: tls, mountPath: /etc/registry-mirror/tls, readOnly: true}
        {{- end }}
        {{- if or .Values.bucket.ca.configMap .Values.bucket.ca.secret }}
        - {name: bucket-ca, mountPath: /etc/registry-mirror/bucket-ca, readOnly: true}
        {{- end }}
        {{- if .Values.bucket.peersSecret }}
        - {name: peers, mountPath: /etc/registry-mirror/peers, readOnly: true}
        {{- end }}
  volumes:
    - name: store
      {{- if .Values.store.hostPath }}
      hostPath: {path: {{ .Values.store.hostPath | quote }}, type: Directory}
      {{- else if or .Values.store.existingClaim (include "mirror.makesClaim" .) }}
      persistentVolumeClaim: {claimName: {{ .Values.store.existingClaim | default (include "mirror.name" .) | quote }}}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - {name: config, configMap: {name: {{ include "mirror.name" . }}}}
    {{- with .Values.secret }}
    - {name: secret, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
    {{- end }}
    {{- with .Values.tls.secret }}
    - {name: tls, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
    {{- end }}
    {{- with .Values.bucket.ca.configMap }}
    - {name: bucket-ca, configMap: {name: {{ . | quote }}}}
    {{- end }}
    {{- with .Values.bucket.ca.secret }}
    - {name: bucket-ca, secret: {secretName: {{ . | quote }}, items: [{key: {{ $.Values.bucket.ca.key | quote }}, path: {{ $.Values.bucket.ca.key | quote }}}]}}
    {{- end }}
    {{- with .Values.bucket.peersSecret }}
    - {name: peers, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
    {{- end }}
    {{- if and (eq .Values.kind "DaemonSet") (include "mirror.touchesNodes" .) }}
    {{- include "mirror.setupVolumes" . | nindent 4 }}
    {{- end }}
{{- end }}
