{{/* What the configuration needs. The chart makes only the rights, volumes and network rules for it. */}}

{{- define "keyferry.config" -}}
{{- if .Values.config }}{{ toYaml .Values.config }}{{ else }}{{ .Files.Get "files/keyferry.yaml" | trim }}{{ end }}
{{- end }}

{{- define "keyferry.configHash" -}}
{{ include "keyferry.config" . | sha256sum | trunc 10 }}
{{- end }}

{{- define "keyferry.configMapName" -}}
{{ include "keyferry.fullname" . }}-config{{ if ne (toString .Values.rollOnChange) "false" }}-{{ include "keyferry.configHash" . }}{{ end }}
{{- end }}

{{/* All that the other templates need from the configuration, as one mapping, in YAML. */}}
{{- define "keyferry.facts" -}}
{{- $config := include "keyferry.config" . | fromYaml -}}
{{- $identity := $config.identity | default dict -}}
{{- $jwks := $identity.jwks | default dict -}}
{{- $verify := $identity.verify | default "jwks" -}}

{{/* What Keyferry needs the API server for: to verify each token, or for its keys; for Events; for the annotations of ServiceAccounts. */}}
{{- $review := eq $verify "token-review" -}}
{{- $discovery := and (eq $verify "jwks") (not $jwks.file) (not $jwks.url) -}}
{{- $issuer := and (eq $verify "jwks") (not $identity.issuer) (not $jwks.tokenFile) -}}
{{- $events := eq (toString ($config.events | default dict).enabled) "true" -}}

{{/* The stores: their addresses, and the audiences of their logins. */}}
{{- $addresses := list -}}
{{- $audiences := list -}}
{{- $vaults := list -}}
{{- $pods := false -}}
{{- $annotations := false -}}
{{- if ne $verify "driver" -}}
  {{- $audiences = append $audiences ($identity.audience | default "keyferry") -}}
{{- end -}}
{{- range $name, $backend := $config.backends -}}
  {{- $auth := $backend.auth | default dict -}}
  {{- if eq $backend.kind "file" -}}
    {{- $vaults = append $vaults (trimSuffix "/" $backend.vault) -}}
  {{- else if eq $backend.kind "vault" -}}
    {{- $pods = true -}}
    {{- $addresses = append $addresses (dict "backend" $name "url" $backend.address) -}}
    {{- if has $auth.method (list "jwt" "kubernetes") -}}
      {{- $audiences = append $audiences ($auth.audience | default "vault") -}}
    {{- end -}}
  {{- else if eq $backend.kind "aws" -}}
    {{- range $service := list "secretsmanager" "ssm" "sts" -}}
      {{- $url := index ($backend.endpoints | default dict) $service | default (printf "https://%s.%s.amazonaws.com" $service $backend.region) -}}
      {{- $addresses = append $addresses (dict "backend" $name "url" $url) -}}
    {{- end -}}
    {{- if has $auth.method (list "irsa" "podIdentity") }}{{ $pods = true }}{{ end -}}
    {{- if eq $auth.method "irsa" -}}
      {{- $audiences = append $audiences ($auth.audience | default "sts.amazonaws.com") -}}
      {{- if not $auth.role }}{{ $annotations = true }}{{ end -}}
    {{- else if eq $auth.method "podIdentity" -}}
      {{- $audiences = append $audiences ($auth.audience | default "pods.eks.amazonaws.com") -}}
      {{- $addresses = append $addresses (dict "backend" $name "url" ($auth.address | default "http://169.254.170.23")) -}}
    {{- else if eq $auth.method "instance" -}}
      {{- $addresses = append $addresses (dict "backend" $name "url" ($auth.address | default "http://169.254.169.254")) -}}
    {{- end -}}
  {{- else if eq $backend.kind "http" -}}
    {{- $addresses = append $addresses (dict "backend" $name "url" $backend.url) -}}
    {{- with ($auth.bearer | default dict).podToken -}}
      {{- $audiences = append $audiences . -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $verify "jwks") $jwks.url -}}
  {{- $addresses = append $addresses (dict "backend" "" "url" $jwks.url) -}}
{{- end -}}

{{- $ownToken := or $review $discovery $issuer $events $annotations (hasPrefix "/var/run/secrets/kubernetes.io/" ($jwks.tokenFile | default "")) -}}

{{- $provider := eq ($config.delivery | default "driver") "provider" -}}
{{- $providers := kindIs "string" $config.providers | ternary (list $config.providers) ($config.providers | default (list "keyferry")) -}}
{{- $socketDir := $config.socketDir | default "/var/run/secrets-store-csi-providers" | trimSuffix "/" -}}
{{- $listen := ($config.metrics | default dict).listen | default "" -}}
{{- $metricsPort := regexMatch "^(127\\.|\\[::1\\])" $listen | ternary "" (regexFind "[0-9]+$" $listen) -}}

{{- $sealed := ($config.cache | default dict).sealed | default dict -}}
{{- $sealedKeys := kindIs "string" $sealed.key | ternary (list $sealed.key) ($sealed.key | default list) -}}
{{- $audit := ($config.audit | default dict).file | default "stdout" -}}
{{- $facts := dict
  "addresses" $addresses
  "annotations" $annotations
  "apiServer" (or $review $discovery $events $annotations)
  "auditFile" (eq $audit "stdout" | ternary "" $audit)
  "audiences" ($audiences | uniq | sortAlpha)
  "backends" (keys $config.backends | sortAlpha)
  "discovery" $discovery
  "events" $events
  "jwksFile" ($jwks.file | default "")
  "kubeletDir" ($config.kubeletDir | default "/var/lib/kubelet" | trimSuffix "/")
  "metricsPort" $metricsPort
  "named" (include "keyferry.named" (list "config" $config) | fromYamlArray)
  "ownToken" $ownToken
  "pods" (or $provider $pods (eq (toString .Values.podsFolder) "true"))
  "provider" $provider
  "randomKeys" (prepend $sealedKeys ($config.versionKey | default "") | compact)
  "review" $review
  "sealedDir" ($sealed.dir | default "")
  "socket" (printf "%s/%s.sock" $socketDir (has "keyferry" $providers | ternary "keyferry" (first $providers)))
  "socketDir" $socketDir
  "stateDir" ($config.stateDir | default "/var/lib/keyferry" | trimSuffix "/")
  "vaults" ($vaults | uniq)
-}}
{{- toYaml $facts -}}
{{- end }}

{{/* The files of /etc/keyferry that a part of the configuration names, as a list, each with its key. */}}
{{- define "keyferry.named" -}}
{{- $at := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
  {{- range $key, $part := $value }}{{ include "keyferry.named" (list (printf "%s.%s" $at $key) $part) }}{{ end -}}
{{- else if kindIs "slice" $value -}}
  {{- range $value }}{{ include "keyferry.named" (list $at .) }}{{ end -}}
{{- else if kindIs "string" $value -}}
  {{- if hasPrefix "/etc/keyferry/" $value -}}
    {{- toYaml (list (dict "key" $at "file" ($value | trimPrefix "/etc/keyferry/" | trimSuffix "/"))) | printf "%s\n" -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* All files of /etc/keyferry that the chart could mount: those of the values, and defaults for those that are not there. */}}
{{- define "keyferry.sources" -}}
{{- $ours := dict
  "age.key" (dict "secret" "keyferry-age-identity")
  "bao-ca.crt" (dict "secret" "keyferry-bao")
  "cache.key" (dict "secret" "keyferry-bao")
  "jwks.json" (dict "configMap" "keyferry-jwks")
  "version.key" (dict "secret" "keyferry-version-key")
-}}
{{- range $file, $from := .Values.files }}{{ $_ := set $ours $file $from }}{{ end -}}
{{- toYaml $ours -}}
{{- end }}

{{/* The files that the configuration names: each by its own path, or by that of its folder. */}}
{{- define "keyferry.files" -}}
{{- $facts := include "keyferry.facts" . | fromYaml -}}
{{- $files := dict -}}
{{- range $file, $from := include "keyferry.sources" . | fromYaml -}}
  {{- range $named := $facts.named -}}
    {{- if hasPrefix (printf "%s/" $named.file) (printf "%s/" $file) }}{{ $_ := set $files $file $from }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- toYaml $files -}}
{{- end }}

{{/* The faults that a schema cannot find. It reports all of them at once, as the daemon does. */}}
{{- define "keyferry.check" -}}
{{- $facts := include "keyferry.facts" . | fromYaml -}}
{{- $files := include "keyferry.files" . | fromYaml -}}
{{- $faults := list -}}

{{- range $file, $from := .Values.files -}}
  {{- if eq (hasKey $from "secret") (hasKey $from "configMap") -}}
    {{- $faults = append $faults (printf "files.%q: must have `secret` or `configMap`, and not both" $file) -}}
  {{- end -}}
{{- end -}}
{{- range $named := $facts.named -}}
  {{- $mounted := false -}}
  {{- range $file, $_ := $files -}}
    {{- if hasPrefix (printf "%s/" $named.file) (printf "%s/" $file) }}{{ $mounted = true }}{{ end -}}
  {{- end -}}
  {{- if not $mounted -}}
    {{- $faults = append $faults (printf "%s: nothing mounts /etc/keyferry/%s (set files.%q to { secret: NAME } or { configMap: NAME })" $named.key $named.file $named.file) -}}
  {{- end -}}
{{- end -}}

{{- range $key, $path := dict "config.audit.file" $facts.auditFile "config.cache.sealed.dir" $facts.sealedDir -}}
  {{- $writable := hasPrefix (printf "%s/" $facts.stateDir) $path | or (hasPrefix "/dev/" $path) -}}
  {{- range $.Values.extraVolumeMounts -}}
    {{- if hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) (printf "%s/" $path) }}{{ $writable = true }}{{ end -}}
  {{- end -}}
  {{- if and $path (not $writable) -}}
    {{- $faults = append $faults (printf "%s: the container cannot write %s (choose a path below %s, or mount a folder by extraVolumes and extraVolumeMounts)" $key $path $facts.stateDir) -}}
  {{- end -}}
{{- end -}}

{{- $vaultSecrets := .Values.vaultSecrets | default dict -}}
{{- if and $vaultSecrets.recipients (ne (len $facts.vaults) 1) -}}
  {{- $faults = append $faults (printf "vaultSecrets: needs exactly 1 backend of `kind: file`, and config.backends has %d (remove vaultSecrets, or correct config.backends)" (len $facts.vaults)) -}}
{{- end -}}
{{- if and $vaultSecrets.folders (not $vaultSecrets.recipients) -}}
  {{- $faults = append $faults "vaultSecrets.recipients: is missing (set it to the Secret that has the vault's file .recipients)" -}}
{{- end -}}

{{- if and (.Values.podMonitor | default dict).create (not $facts.metricsPort) -}}
  {{- $faults = append $faults "podMonitor.create: Prometheus cannot reach the metrics, because config.metrics.listen is missing or is an address inside the Pod (set config.metrics.listen: \"0.0.0.0:8095\")" -}}
{{- end -}}
{{- range $name, $_ := (.Values.networkPolicy | default dict).backends -}}
  {{- if not (has $name $facts.backends) -}}
    {{- $faults = append $faults (printf "networkPolicy.backends.%s: config.backends has no backend of this name (it has: %s)" $name (join ", " $facts.backends)) -}}
  {{- end -}}
{{- end -}}

{{- if $faults }}{{ fail (printf "\n%s" (join "\n" $faults)) }}{{ end -}}
{{- end }}
