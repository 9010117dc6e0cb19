{{/*
Names. They are those of chart 4.1.18, so that an upgrade changes objects in
place: <chart name or nameOverride>-mic and -nmi, not scoped by release.
*/}}
{{- define "aad-pod-identity.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 59 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of the user-facing cluster roles alone, as in chart 4.1.18. */}}
{{- define "aad-pod-identity.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 59 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 59 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 59 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.mic.fullname" -}}
{{ include "aad-pod-identity.name" . }}-mic
{{- end -}}
{{- define "aad-pod-identity.nmi.fullname" -}}
{{ include "aad-pod-identity.name" . }}-nmi
{{- end -}}
{{- define "aad-pod-identity.webhook.fullname" -}}
{{ include "aad-pod-identity.name" . | trunc 55 | trimSuffix "-" }}-webhook
{{- end -}}
{{- define "aad-pod-identity.cloudCA.fullname" -}}
{{ include "aad-pod-identity.name" . | trunc 54 | trimSuffix "-" }}-cloud-ca
{{- end -}}
{{- define "aad-pod-identity.assignedPolicy.fullname" -}}
{{ include "aad-pod-identity.name" . | trunc 43 | trimSuffix "-" }}-assigned-identities
{{- end -}}

{{/* A ValidatingAdmissionPolicy and its binding: (dict "root" $ "name" "references"). */}}
{{- define "aad-pod-identity.policy.fullname" -}}
{{ include "aad-pod-identity.name" .root | trunc 43 | trimSuffix "-" }}-{{ .name }}
{{- end -}}

{{- define "aad-pod-identity.hook.fullname" -}}
{{ include "aad-pod-identity.name" .root | trunc 48 | trimSuffix "-" }}-{{ .name }}
{{- end -}}

{{/* Service accounts. Without rbac.enabled pods run as the namespace's default. */}}
{{- define "aad-pod-identity.mic.serviceAccountName" -}}
{{- if .Values.rbac.enabled }}{{ include "aad-pod-identity.mic.fullname" . }}{{ else }}default{{ end -}}
{{- end -}}
{{- define "aad-pod-identity.nmi.serviceAccountName" -}}
{{- if .Values.rbac.enabled }}{{ include "aad-pod-identity.nmi.fullname" . }}{{ else }}default{{ end -}}
{{- end -}}
{{- define "aad-pod-identity.webhook.serviceAccountName" -}}
{{- if .Values.rbac.enabled }}{{ include "aad-pod-identity.webhook.fullname" . }}{{ else }}default{{ end -}}
{{- end -}}
{{- define "aad-pod-identity.mic.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "aad-pod-identity.mic.serviceAccountName" . }}
{{- end -}}

{{/* Namespaces other than the release's. */}}
{{- define "aad-pod-identity.micNamespace" -}}
{{- default .Release.Namespace .Values.nmi.micNamespace -}}
{{- end -}}
{{- define "aad-pod-identity.leaderElectionNamespace" -}}
{{- default "default" .Values.mic.leaderElection.namespace -}}
{{- end -}}
{{- define "aad-pod-identity.leaderElectionName" -}}
{{- default "aad-pod-identity-mic" .Values.mic.leaderElection.name -}}
{{- end -}}

{{/* Labels. The selectors are immutable and equal those of chart 4.1.18. */}}
{{- define "aad-pod-identity.selectors" -}}
app.kubernetes.io/name: {{ include "aad-pod-identity.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "aad-pod-identity.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- define "aad-pod-identity.labels" -}}
{{ include "aad-pod-identity.selectors" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "aad-pod-identity.chart" . }}
{{- end -}}

{{/*
The image of a component: (dict "root" $ "component" .Values.mic "name" "mic").
Images of the 1.8 releases do not know this chart's flags, so a pinned tag that a
values file carried over is refused here rather than by a crash loop.
*/}}
{{- define "aad-pod-identity.image" -}}
{{- $tag := toString (default (printf "v%s" .root.Chart.AppVersion) .component.tag) -}}
{{- if regexMatch "^v?1\\.[0-8]\\." $tag -}}
{{- fail (printf "%s.tag is %s, an image of the old release, which this chart cannot run: remove %s.tag from your values (with --reuse-values: use --reset-then-reuse-values)" .name $tag .name) -}}
{{- end -}}
{{- printf "%s/%s:%s" .root.Values.image.repository .component.image $tag -}}
{{- end -}}

{{/*
"true" if a value that may be a boolean or a string means true. Chart 4.1.18
documented strings for some and took any non-empty one, even "false", for true.
*/}}
{{- define "aad-pod-identity.isTrue" -}}
{{- if eq (lower (toString .)) "true" -}}true{{- end -}}
{{- end -}}

{{/*
Arguments, a list of (list "flag" value). "", null and the number 0 leave a flag
out, as in chart 4.1.18; false is said, since some flags default to true.
*/}}
{{- define "aad-pod-identity.args" -}}
{{- range . }}
{{- $value := index . 1 }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{- if or $value (kindIs "bool" $value) }}
- {{ printf "--%s=%v" (index . 0) $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Security of containers that need no privilege: Pod Security level restricted. */}}
{{- define "aad-pod-identity.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "aad-pod-identity.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end -}}

{{/* Scheduling fields of a component's values, in the order of a pod spec. */}}
{{- define "aad-pod-identity.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Stops an installation without cert-manager, whose objects the API server would
refuse with "no matches for kind". Helm installs our CRDs before it renders, so
their presence tells an installation from `helm template` and `helm lint`, which
know no cluster.
*/}}
{{- define "aad-pod-identity.requireCertManager" -}}
{{- if and (eq .Values.webhook.certificates.mode "cert-manager") .Values.webhook.certManager.check (.Capabilities.APIVersions.Has "aadpodidentity.k8s.io/v1") (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) -}}
{{- fail "the webhook's serving certificate needs cert-manager (API cert-manager.io/v1), which this cluster does not have. Install it first: https://cert-manager.io/docs/installation/ or do without it: webhook.certificates.mode=self (or set webhook.certManager.check=false if it is there and you know why Helm does not see it)" -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the webhook's serving certificate. */}}
{{- define "aad-pod-identity.webhook.secretName" -}}
{{- $certificates := .Values.webhook.certificates -}}
{{- if ne $certificates.mode "provided" -}}
{{- if $certificates.caBundle -}}
{{- fail (printf "webhook.certificates.caBundle is for webhook.certificates.mode=provided; in mode %s the CA is put into the webhook configurations without you; set it to null" $certificates.mode) -}}
{{- end -}}
{{- if $certificates.secretName -}}
{{- fail (printf "webhook.certificates.secretName is for webhook.certificates.mode=provided: in mode %s the Secret would be written over, and deleted with the release; set it to null" $certificates.mode) -}}
{{- end -}}
{{- printf "%s-%s" (include "aad-pod-identity.webhook.fullname" .) (ternary "self-signed" "tls" (eq $certificates.mode "self")) -}}
{{- else if or (not $certificates.secretName) (not $certificates.caBundle) -}}
{{- fail (printf "webhook.certificates.mode=provided needs webhook.certificates.secretName, a Secret of namespace %s with tls.crt and tls.key for %s.%s.svc, and webhook.certificates.caBundle, the PEM certificates that sign it (--set-file)" .Release.Namespace (include "aad-pod-identity.webhook.fullname" .) .Release.Namespace) -}}
{{- else -}}
{{- $certificates.secretName -}}
{{- end -}}
{{- end -}}

{{/* What all webhook entries share: (dict "root" $ "path" "/mutate/pods"). */}}
{{- define "aad-pod-identity.webhook.common" -}}
admissionReviewVersions: ["v1"]
sideEffects: None
matchPolicy: Equivalent
timeoutSeconds: {{ .root.Values.webhook.timeoutSeconds }}
clientConfig:
  service:
    name: {{ include "aad-pod-identity.webhook.fullname" .root }}
    namespace: {{ .root.Release.Namespace }}
    path: {{ .path }}
    port: 443
  {{- if eq .root.Values.webhook.certificates.mode "provided" }}
  caBundle: {{ b64enc .root.Values.webhook.certificates.caBundle }}
  {{- end }}
{{- end -}}

{{/* What the entries for pods share; further namespaceSelector terms may follow. */}}
{{- define "aad-pod-identity.webhook.pods" -}}
failurePolicy: Ignore
reinvocationPolicy: IfNeeded
rules:
  - apiGroups: [""]
    apiVersions: ["v1"]
    operations: ["CREATE"]
    resources: ["pods"]
    scope: Namespaced
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        - kube-system
{{- end -}}

{{/*
Which labelled pods the webhook gives the readiness gate; "" for none. Only MIC sets
the condition, so without it the pods would never become Ready.
*/}}
{{- define "aad-pod-identity.readinessGate" -}}
{{- if .Values.readinessGate.enabled -}}
{{- if ne .Values.operationMode "standard" -}}
{{- fail "readinessGate.enabled needs operationMode standard: without MIC nobody sets the condition, and pods would never become Ready" -}}
{{- end -}}
{{- ternary "all" "opt-in" .Values.readinessGate.allPods -}}
{{- end -}}
{{- end -}}

{{/*
The release's own pods are known by their label and not by their namespace, which
may be one that users' pods live in.
*/}}
{{- define "aad-pod-identity.webhook.notOurPods" -}}
- key: app.kubernetes.io/name
  operator: NotIn
  values:
    - {{ include "aad-pod-identity.name" . }}
{{- end -}}

{{/*
What the entries for our own kinds share. MIC's writes of AzureAssignedIdentities,
which a policy guards, never wait for the webhook. Nor do updates that it would pass
anyway, since they leave alone what it judges: while it is down, finalizers can be
cleared, garbage collected, and a release with the same objects rolled back.
*/}}
{{- define "aad-pod-identity.webhook.objects" -}}
failurePolicy: {{ .Values.webhook.failurePolicy }}
rules:
  - apiGroups: ["aadpodidentity.k8s.io"]
    apiVersions: ["v1"]
    operations: ["CREATE", "UPDATE"]
    resources: ["azureidentities", "azureidentitybindings", "azurepodidentityexceptions", "azureassignedidentities"]
    scope: Namespaced
matchConditions:
  - name: not-mic-assigning
    expression: >-
      request.resource.resource != 'azureassignedidentities' ||
      request.userInfo.username != {{ include "aad-pod-identity.mic.username" . | squote }}
  - name: something-to-judge
    expression: >-
      request.operation == 'CREATE' || object.?spec != oldObject.?spec ||
      (request.resource.resource == 'azureidentities' && object.metadata.?annotations != oldObject.metadata.?annotations)
{{- end -}}

{{/* The binding that puts a policy into force: (dict "root" $ "name" "references"). */}}
{{- define "aad-pod-identity.policy.binding" -}}
{{- $name := include "aad-pod-identity.policy.fullname" . -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels:
    {{- include "aad-pod-identity.labels" .root | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: ["Deny"]
{{- end -}}

{{/*
The hosts that adEndpoint may have, a JSON list: the authorities of Azure's clouds
and allowedAuthorityHosts, in lower case and without the port that https has anyway.
*/}}
{{- define "aad-pod-identity.authorityHosts" -}}
{{- $hosts := list "login.microsoftonline.com" "login.microsoftonline.us" "login.partner.microsoftonline.cn" "login.chinacloudapi.cn" -}}
{{- range .Values.allowedAuthorityHosts -}}
{{- $hosts = append $hosts (lower . | trimSuffix ":443") -}}
{{- end -}}
{{- toJson (uniq $hosts) -}}
{{- end -}}

{{/* The exceptions that the release installs, a JSON list of namespace, name and podLabels. */}}
{{- define "aad-pod-identity.exceptions" -}}
{{- $all := list -}}
{{- if include "aad-pod-identity.isTrue" .Values.installMICException -}}
{{- if eq .Values.operationMode "standard" -}}
{{- $all = append $all (dict "namespace" .Release.Namespace "name" "mic" "podLabels" (dict "app" "mic" "component" "mic" "app.kubernetes.io/component" "mic")) -}}
{{- end -}}
{{- $all = append $all (dict "namespace" "kube-system" "name" "aks-addon-exception" "podLabels" (dict "kubernetes.azure.com/managedby" "aks")) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* A budget has one of the two; minAvailable wins over a default maxUnavailable. */}}
{{- define "aad-pod-identity.podDisruptionBudget" -}}
{{- if hasKey . "minAvailable" }}{{ toYaml (omit . "maxUnavailable") }}{{ else }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/*
The match condition of policies about rights that exempts MIC's upgrade of stored
objects, and nothing else that its service account may write: an update in which
every field keeps its value and only the capitalisation of names changes, in the spec
and in clientPassword.
*/}}
{{- define "aad-pod-identity.policy.notMICRewriting" -}}
- name: not-mic-rewriting
  expression: >-
    request.operation == 'CREATE' || request.userInfo.username != {{ include "aad-pod-identity.mic.username" . | squote }} ||
    !({{ include "aad-pod-identity.policy.sameButCase" (dict "new" "object.spec" "old" "oldObject.spec" "k" "k" "l" "l" "deep" "clientpassword") | nindent 4 | trim }})
{{- end -}}

{{/*
CEL: two maps are the same but for the capitalisation of keys. A key that stands in
both has one value; every other has a counterpart that the other map has not. k and l
are the names for keys; the values of the key "deep", in lower case, may differ in the
same way.
*/}}
{{- define "aad-pod-identity.policy.sameButCase" -}}
{{- $same := printf "%s[%s] == %s[%s]" .new .k .old .l -}}
{{- $kept := printf "%s[%s] == %s[%s]" .new .k .old .k -}}
{{- with .deep -}}
{{- $below := dict "k" (printf "%s2" $.k) "l" (printf "%s2" $.l) "deep" "" -}}
{{- $bothMaps := printf "type(%s[%s]) == map && type(%s[%%s]) == map" $.new $.k $.old -}}
{{- $same = printf "(%s || %s.lowerAscii() == '%s' && %s && %s)" $same $.k . (printf $bothMaps $.l) (include "aad-pod-identity.policy.sameButCase" (merge (dict "new" (printf "%s[%s]" $.new $.k) "old" (printf "%s[%s]" $.old $.l)) $below)) -}}
{{- $kept = printf "(%s || %s.lowerAscii() == '%s' && %s && %s)" $kept $.k . (printf $bothMaps $.k) (include "aad-pod-identity.policy.sameButCase" (merge (dict "new" (printf "%s[%s]" $.new $.k) "old" (printf "%s[%s]" $.old $.k)) $below)) -}}
{{- end -}}
{{ .new }}.size() == {{ .old }}.size() &&
{{ .new }}.all({{ .k }}, {{ .k }} in {{ .old }} ? {{ $kept }} :
  {{ .old }}.exists({{ .l }}, !({{ .l }} in {{ .new }}) && {{ .l }}.lowerAscii() == {{ .k }}.lowerAscii() && {{ $same }})) &&
{{ .old }}.all({{ .l }}, {{ .l }} in {{ .new }} || {{ .new }}.exists({{ .k }}, !({{ .k }} in {{ .old }}) && {{ .l }}.lowerAscii() == {{ .k }}.lowerAscii()))
{{- end -}}
