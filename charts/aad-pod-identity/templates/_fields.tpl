{{/*
The fields of our kinds, type by type: what the policy on field names knows. It is
JSON, which is a map in CEL as well. "?" is for what may be null, "any" for what the
API server judges by itself (the metadata of an embedded object) or nobody does
(managedFields[].fieldsV1). A test keeps it equal to the Go types of api/v1.
*/}}
{{- define "aad-pod-identity.fields" -}}
{
  "AzureIdentity": {"apiVersion": "string", "kind": "string", "metadata": "any", "spec": "AzureIdentitySpec", "status": "AzureIdentityStatus"},
  "AzureIdentitySpec": {
    "metadata": "ObjectMeta", "type": "integer", "resourceID": "string", "clientID": "string", "clientPassword": "SecretReference",
    "tenantID": "string", "auxiliaryTenantIDs": "list of strings?", "adResourceID": "string", "adEndpoint": "string", "replicas": "int32?"
  },
  "SecretReference": {"name": "string", "namespace": "string"},
  "AzureIdentityStatus": {"metadata": "ObjectMeta", "availableReplicas": "int32", "conditions": "list of Condition?"},
  "AzureIdentityBinding": {"apiVersion": "string", "kind": "string", "metadata": "any", "spec": "AzureIdentityBindingSpec", "status": "AzureIdentityBindingStatus"},
  "AzureIdentityBindingSpec": {"metadata": "ObjectMeta", "azureIdentity": "string", "selector": "string", "weight": "integer"},
  "AzureIdentityBindingStatus": {"metadata": "ObjectMeta", "availableReplicas": "int32", "conditions": "list of Condition?"},
  "AzureAssignedIdentity": {"apiVersion": "string", "kind": "string", "metadata": "any", "spec": "AzureAssignedIdentitySpec", "status": "AzureAssignedIdentityStatus"},
  "AzureAssignedIdentitySpec": {
    "metadata": "ObjectMeta", "azureIdentityRef": "AzureIdentity?", "azureBindingRef": "AzureIdentityBinding?",
    "pod": "string", "podNamespace": "string", "nodename": "string", "replicas": "int32?"
  },
  "AzureAssignedIdentityStatus": {"metadata": "ObjectMeta", "status": "string", "availableReplicas": "int32", "conditions": "list of Condition?"},
  "AzurePodIdentityException": {"apiVersion": "string", "kind": "string", "metadata": "any", "spec": "AzurePodIdentityExceptionSpec", "status": "AzurePodIdentityExceptionStatus"},
  "AzurePodIdentityExceptionSpec": {"metadata": "ObjectMeta", "podLabels": "map of strings"},
  "AzurePodIdentityExceptionStatus": {"metadata": "ObjectMeta", "status": "string"},
  "ObjectMeta": {
    "name": "string?", "generateName": "string?", "namespace": "string?", "selfLink": "string?", "uid": "string?", "resourceVersion": "string?",
    "generation": "integer?", "creationTimestamp": "time?", "deletionTimestamp": "time?", "deletionGracePeriodSeconds": "integer?",
    "labels": "map of strings?", "annotations": "map of strings?", "ownerReferences": "list of OwnerReference?",
    "finalizers": "list of strings?", "managedFields": "list of ManagedFieldsEntry?"
  },
  "OwnerReference": {"apiVersion": "string", "kind": "string", "name": "string", "uid": "string", "controller": "boolean?", "blockOwnerDeletion": "boolean?"},
  "ManagedFieldsEntry": {
    "manager": "string", "operation": "string", "apiVersion": "string", "time": "time?",
    "fieldsType": "string", "fieldsV1": "any?", "subresource": "string"
  },
  "Condition": {
    "type": "string", "status": "string", "observedGeneration": "integer", "lastTransitionTime": "time?", "reason": "string", "message": "string"
  }
}
{{- end -}}

{{/*
The parts of each kind that the policy looks into. The status of the other kinds is
a subresource, so whoever writes the object does not write it.
*/}}
{{- define "aad-pod-identity.judgedParts" -}}
{
  "AzureIdentity": ["spec"],
  "AzureIdentityBinding": ["spec"],
  "AzureAssignedIdentity": ["spec", "status"],
  "AzurePodIdentityException": ["spec", "status"]
}
{{- end -}}

{{/*
A CEL variable for each object below the one of the type, which the variable "var"
holds: (dict "fields" $fields "type" "AzureIdentitySpec" "var" "spec" "seen" dict).
CEL has no recursion, so the depth is unrolled here.
*/}}
{{- define "aad-pod-identity.fieldVariables" -}}
{{- range $name, $nullable := get .fields .type }}
{{- $type := trimSuffix "?" $nullable }}
{{- $var := printf "%s_%s" $.var $name }}
{{- if and (hasKey $.fields $type) (not (hasKey $.seen $var)) }}
{{- $_ := set $.seen $var true }}
- name: {{ $var }}
  expression: "type(variables.{{ $.var }}) == map && '{{ $name }}' in variables.{{ $.var }} ? variables.{{ $.var }}['{{ $name }}'] : null"
{{- include "aad-pod-identity.fieldVariables" (dict "fields" $.fields "type" $type "var" $var "seen" $.seen) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Path, type and value of an object and of those below it, as elements of a list in CEL. */}}
{{- define "aad-pod-identity.fieldObjects" -}}
[dyn('{{ .path }}'), dyn('{{ .type }}'), variables.{{ .var }}],
{{- range $name, $nullable := get .fields .type }}
{{- $type := trimSuffix "?" $nullable }}
{{- if hasKey $.fields $type }}
{{ include "aad-pod-identity.fieldObjects" (dict "fields" $.fields "type" $type "var" (printf "%s_%s" $.var $name) "path" (printf "%s.%s" $.path $name)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What is wrong with the names and types of one object, as a list of strings in CEL:
(dict "path" … "type" … "value" …), each an expression.
*/}}
{{- define "aad-pod-identity.fieldProblems" -}}
{{- $known := printf "variables.fields[%s]" .type -}}
{{- $field := printf "%s[k]" .value -}}
{{- $want := printf "%s[k].replace('?', '')" $known -}}
({{ .value }}.filter(k, !(k in {{ $known }})).map(k,
  {{ .path }} + '.' + (k.matches('^[-_A-Za-z0-9]{1,100}$') ? k : strings.quote(k.size() > 100 ? k.substring(0, 100) : k)) + ': ' +
  ({{ $known }}.exists(n, n.lowerAscii() == k.lowerAscii())
    ? 'miscapitalised, use "' + {{ $known }}.filter(n, n.lowerAscii() == k.lowerAscii())[0] + '"'
    : 'unknown field')) +
{{ .value }}.filter(k, k in {{ $known }} && !(
  {{ $field }} == null && {{ $known }}[k].endsWith('?') || {{ $want }} == 'any' ||
  {{ $want }} == 'string' && type({{ $field }}) == string ||
  {{ $want }} == 'integer' && (type({{ $field }}) == int || type({{ $field }}) == double && {{ $field }} > -9e18 && {{ $field }} < 9e18 && double(int({{ $field }})) == {{ $field }}) ||
  {{ $want }} == 'int32' && (type({{ $field }}) == int || type({{ $field }}) == double && double(int({{ $field }})) == {{ $field }}) && {{ $field }} >= -2147483648 && {{ $field }} <= 2147483647 ||
  {{ $want }} == 'boolean' && type({{ $field }}) == bool ||
  {{ $want }} == 'time' && type({{ $field }}) == string && {{ $field }}.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{1,2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})$') && timestamp({{ $field }}) == timestamp({{ $field }}) ||
  {{ $want }} == 'map of strings' && type({{ $field }}) == map && {{ $field }}.all(x, type({{ $field }}[x]) == string) ||
  {{ $want }} == 'list of strings' && type({{ $field }}) == list && {{ $field }}.all(x, type(x) == string) ||
  {{ $want }} != 'list of strings' && {{ $want }}.startsWith('list of ') && type({{ $field }}) == list && {{ $field }}.all(x, type(x) == map) ||
  {{ $want }} in variables.fields && type({{ $field }}) == map
)).map(k, {{ .path }} + '.' + k + ': must be ' +
  ({{ $want }} in variables.fields ? 'an object'
    : {{ $want }} == 'time' ? 'a time in RFC 3339 format, such as 2006-01-02T15:04:05Z'
    : {{ $want }} == 'integer' ? 'a whole number'
    : {{ $want }} == 'int32' ? 'a whole number of 32 bits'
    : {{ $want }}.startsWith('list of ') && {{ $want }} != 'list of strings' ? 'a list of objects'
    : 'a ' + {{ $want }})))
{{- end -}}
