{{/*
The annotations of a hook's objects: (dict "hook" "pre-delete" "weight" "-5").
A failed Job stays for its log, until the next attempt or its time to live ends.
*/}}
{{- define "aad-pod-identity.hook.annotations" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "aad-pod-identity.hook.labels" -}}
{{ include "aad-pod-identity.labels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{/* ServiceAccount of a hook: (dict "root" $ "name" "prepare" "hook" "pre-install"). */}}
{{- define "aad-pod-identity.hook.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "aad-pod-identity.hook.fullname" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "aad-pod-identity.hook.labels" . | nindent 4 }}
  annotations:
    {{- include "aad-pod-identity.hook.annotations" (dict "hook" .hook "weight" "-20") | nindent 4 }}
{{- end -}}

{{/*
ClusterRole with its binding, or Role with its binding in .namespace:
(dict "root" $ "name" "prepare" "hook" "pre-install" "rules" (list ...) ["namespace" ""]).
*/}}
{{- define "aad-pod-identity.hook.role" -}}
{{- $name := include "aad-pod-identity.hook.fullname" . -}}
{{- $kind := ternary "Role" "ClusterRole" (hasKey . "namespace") -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "aad-pod-identity.hook.labels" . | nindent 4 }}
  annotations:
    {{- include "aad-pod-identity.hook.annotations" (dict "hook" .hook "weight" "-20") | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "aad-pod-identity.hook.labels" . | nindent 4 }}
  annotations:
    {{- include "aad-pod-identity.hook.annotations" (dict "hook" .hook "weight" "-10") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/*
The Job: (dict "root" $ "name" "prepare" "hook" "pre-install" "deadline" 240 "args" (list ...)).
A pod that is evicted or lost with its node is tried again; exit codes 1 and 2 are
answers otherwise, and final.
*/}}
{{- define "aad-pod-identity.hook.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "aad-pod-identity.hook.fullname" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "aad-pod-identity.hook.labels" . | nindent 4 }}
  annotations:
    {{- include "aad-pod-identity.hook.annotations" (dict "hook" .hook "weight" "0") | nindent 4 }}
    helm.sh/hook-output-log-policy: {{ .logs | default "hook-failed" }}
spec:
  activeDeadlineSeconds: {{ .deadline }}
  ttlSecondsAfterFinished: 600
  backoffLimit: 2
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
      - action: FailJob
        onExitCodes:
          containerName: {{ .name }}
          operator: In
          values: [1, 2]
  template:
    metadata:
      labels:
        {{- include "aad-pod-identity.hook.labels" . | nindent 8 }}
        component: {{ .name }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ include "aad-pod-identity.hook.fullname" . }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.webhook.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      securityContext:
        {{- include "aad-pod-identity.restrictedPod" . | nindent 8 }}
      containers:
        - name: {{ .name }}
          image: {{ include "aad-pod-identity.image" (dict "root" .root "component" .root.Values.webhook "name" "webhook") | quote }}
          imagePullPolicy: {{ .root.Values.image.imagePullPolicy }}
          args:
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
          {{- with .root.Values.webhook.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            {{- include "aad-pod-identity.restrictedContainer" . | nindent 12 }}
      {{- include "aad-pod-identity.scheduling" (omit .root.Values.webhook "affinity" "topologySpreadConstraints") | trim | nindent 6 }}
{{- end -}}
