{{/* What is said in another place. */}}
{{- define "mirror.refuseMisplaced" -}}
{{- if regexMatch "(^|@)sha(256|512):" (.Values.image.tag | default "") }}
{{- fail "image.tag: has a digest, which is said as image.digest; the tag before it may be left out" }}
{{- end }}
{{- if contains "@" .Values.image.repository }}
{{- fail "image.repository: has a digest, which is said as image.digest" }}
{{- end }}
{{- if regexMatch ":[^/]*$" .Values.image.repository }}
{{- fail "image.repository: has a tag, which is said as image.tag" }}
{{- end }}
{{- $names := dict }}
{{- range .Values.extraEnv }}
{{- $name := .name }}
{{- if hasKey $names $name }}
{{- fail (printf "extraEnv: has %s twice" $name) }}
{{- end }}
{{- $_ := set $names $name true }}
{{- $elsewhere := dict "REGISTRY_MIRROR_CONFIG" "is config" "REGISTRY_MIRROR_STORE_PATH" "is where store is mounted"
  "REGISTRY_MIRROR_STORE_MAX_SIZE" "is store.maxSize" "REGISTRY_MIRROR_SERVER_DRAIN" "is drain" "REGISTRY_MIRROR_SERVER_LISTEN" "is where the chart's Service leads"
  "REGISTRY_MIRROR_SERVER_ADMIN" "is where the chart's probes go" }}
{{- if $.Values.bucket.credentialsSecret }}
{{- $_ := merge $elsewhere (dict "AWS_ACCESS_KEY_ID" "is in bucket.credentialsSecret" "AWS_SECRET_ACCESS_KEY" "is in bucket.credentialsSecret") }}
{{- end }}
{{- if and $.Values.bucket.name $.Values.bucket.peersSecret }}
{{- $_ := set $elsewhere "POD_IP" "has its value from the pod" }}
{{- end }}
{{- $where := get $elsewhere .name }}
{{- if hasPrefix "REGISTRY_MIRROR_STORE_BUCKET_" .name }}{{ $where = "is said below bucket" }}{{ end }}
{{- if hasPrefix "REGISTRY_MIRROR_SERVER_TLS_" .name }}{{ $where = "is said as tls.secret, or in config" }}{{ end }}
{{- with $where }}
{{- fail (printf "extraEnv: %s %s" $name .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A release that sets up the same nodes: each takes back what the other wrote. */}}
{{- define "mirror.refuseNodesOfOthers" -}}
{{- $nodes := eq .Values.kind "DaemonSet" | ternary (.Values.nodeSelector | default dict) (dict "kubernetes.io/os" "linux") }}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items }}
{{- $isMirror := eq (dig "metadata" "labels" "app.kubernetes.io/name" "" .) "registry-mirror" }}
{{- $release := dig "metadata" "labels" "app.kubernetes.io/instance" "" . }}
{{- $namespace := .metadata.namespace }}
{{- if and $isMirror (or (ne $release $.Release.Name) (ne $namespace $.Release.Namespace)) }}
{{- $isApart := false }}
{{- range $label, $value := dig "spec" "template" "spec" "nodeSelector" dict . }}
{{- if and (hasKey $nodes $label) (ne (get $nodes $label) $value) }}{{ $isApart = true }}{{ end }}
{{- end }}
{{- range dig "spec" "template" "spec" "initContainers" list . }}
{{- if and (eq .name "setup") (has $.Values.nodes.client (.args | default list)) (not $isApart) }}
{{- fail (printf "nodes.setup: release %s in namespace %s sets up nodes for %s, and each would take back what the other wrote there; leave it to one of them: take that one back with undo=true, or set nothing up here; or give each nodes of its own, by different values of one label in nodeSelector (kind=DaemonSet)" $release $namespace $.Values.nodes.client) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What does not go together. */}}
{{- define "mirror.refuse" -}}
{{- include "mirror.refuseMisplaced" . }}
{{- if and (eq .Values.kind "Deployment") (gt (int .Values.replicas) 1) (not .Values.bucket.name) }}
{{- fail "replicas: more than one needs a bucket, or kind=DaemonSet; each store is for one daemon" }}
{{- end }}
{{- if .Values.store.existingClaim }}
{{- if .Values.store.hostPath }}
{{- fail "store.existingClaim: there is store.hostPath, too, and the store is in one place; leave one of them empty" }}
{{- end }}
{{- if eq .Values.kind "DaemonSet" }}
{{- fail "store.existingClaim: is the store of one daemon, and each of a DaemonSet has its own; leave it empty" }}
{{- end }}
{{- if gt (int .Values.replicas) 1 }}
{{- fail "store.existingClaim: is the store of one daemon; with more replicas leave it empty, after `store push` of a single one has brought what it has into the bucket" }}
{{- end }}
{{- end }}
{{- /* With --undo there has to be a way out of it. */}}
{{- if and .Values.store.hostPath .Values.nodes.setup (not .Values.undo) }}
{{- $records := "/var/lib/registry-mirror/setup/" }}
{{- $folder := printf "%s/" (clean .Values.store.hostPath | trimSuffix "/") }}
{{- if or (hasPrefix $records $folder) (hasPrefix $folder $records) }}
{{- fail (printf "store.hostPath: below %s of each node is what nodes.setup writes down, and a store is in a folder of its own, such as /var/lib/registry-mirror/store" (trimSuffix "/" $records)) }}
{{- end }}
{{- end }}
{{- with (fromToml .Values.config).Error }}
{{- fail (printf "config: is no TOML: %s" .) }}
{{- end }}
{{- $server := include "mirror.ownServer" . | fromJson }}
{{- if hasKey $server "drain" }}
{{- fail "config: how long pulls may end is said as drain, a value of the chart, so that Kubernetes waits for it" }}
{{- end }}
{{- if and .Values.tls.secret (hasKey $server "tls") }}
{{- fail "config: has a [server.tls] of its own; take it out, tls.secret makes one" }}
{{- end }}
{{- if and .Values.bucket.name (hasKey (include "mirror.table" (list (fromToml .Values.config) "store") | fromJson) "bucket") }}
{{- fail "config: has a [store.bucket] of its own; take it out, bucket.name makes one" }}
{{- end }}
{{- /* fromToml takes more tables after such a one, the program does not. */}}
{{- range $name, $adds := dict "server" .Values.tls.secret "store" .Values.bucket.name }}
{{- if and $adds (regexMatch (printf `(?m)^\s*["']?%s["']?\s*=\s*[{]` $name) $.Values.config) }}
{{- fail (printf "config: write %s as a table, [%s] and a line for each key, not as %s = {…}: more is added to it" $name $name $name) }}
{{- end }}
{{- end }}
{{- with (fromToml (include "mirror.config" .)).Error }}
{{- fail (printf "config: what tls.secret and bucket.name add to it does not fit in: %s" .) }}
{{- end }}
{{- $redirectTtl := include "mirror.seconds" .Values.bucket.redirectTtl | atoi }}
{{- if or (lt $redirectTtl 1) (gt $redirectTtl 604800) }}
{{- fail "bucket.redirectTtl: more than nothing, and no signed address is good for longer than 168h" }}
{{- end }}
{{- if and (eq (include "mirror.scheme" .) "https") .Values.bucket.name .Values.bucket.peersSecret }}
{{- fail "bucket.peersSecret: replicas ask each other by the addresses of their pods, which no certificate names; end TLS in front of them, or leave peersSecret empty" }}
{{- end }}
{{- if and (eq (include "mirror.scheme" .) "https") (hasPrefix "http://" .Values.nodes.mirror) (not .Values.undo) }}
{{- fail "nodes.mirror: begins with http://, and the mirror speaks TLS" }}
{{- end }}
{{- if and .Values.tls.ca (not .Values.tls.secret) }}
{{- fail "tls.ca: is a key of tls.secret, which is empty" }}
{{- end }}
{{- if and .Values.tls.ca .Values.nodes.setup (ne .Values.nodes.client "containerd") }}
{{- fail "tls.ca: only containerd is told of it; have the nodes trust it otherwise, and leave tls.ca empty" }}
{{- end }}
{{- if ne (empty .Values.bucket.credentialsKeys.id) (empty .Values.bucket.credentialsKeys.secret) }}
{{- fail "bucket.credentialsKeys: both of them, or none" }}
{{- end }}
{{- if and .Values.bucket.credentialsKeys.id (not .Values.bucket.credentialsSecret) }}
{{- fail "bucket.credentialsKeys: are keys of bucket.credentialsSecret, which is empty" }}
{{- end }}
{{- if and .Values.bucket.ca.configMap .Values.bucket.ca.secret }}
{{- fail "bucket.ca: is in a configMap or in a secret, not in both" }}
{{- end }}
{{- if and .Values.nodes.setup (not .Values.undo) (not .Values.nodes.besideOthers) }}
{{- include "mirror.refuseNodesOfOthers" . }}
{{- end }}
{{- if not (include "mirror.touchesNodes" .) }}
{{- range $name := list (include "mirror.name" .) (printf "%s-nodes" (include "mirror.name" .)) }}
{{- range dig "spec" "template" "spec" "initContainers" list (lookup "apps/v1" "DaemonSet" $.Release.Namespace $name) }}
{{- if eq .name "setup" }}
{{- fail "nodes.setup: nodes are told to ask this mirror first, and would go on with it; take that back with --set undo=true, wait until it is rolled out, then turn both off" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
