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

{{/* Path, fields and value of an object and of those below it, as elements of a list in CEL. */}}
{{- define "aad-pod-identity.fieldObjects" -}}
[dyn('{{ .path }}'), dyn(variables.fields['{{ .type }}']), variables.{{ .var }}],
{{- range $name, $nullable := get .fields .type }}
{{- $type := trimSuffix "?" $nullable }}
{{- if hasKey $.fields $type }}
{{ include "aad-pod-identity.fieldObjects" (dict "fields" $.fields "type" $type "var" (printf "%s_%s" $.var $name) "path" (printf "%s.%s" $.path $name)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What is wrong with the names and types of one object, as a string in CEL:
(dict "path" … "fields" … "value" …), each an expression. Within it, t holds the types
of the fields by name, and w the type of the field k. A list of one element with map
or exists is CEL's way to name a value.
*/}}
{{- define "aad-pod-identity.fieldProblems" -}}
{{- $field := printf "%s[k]" .value -}}
[{{ .fields }}].map(t,
  {{ .value }}.filter(k, !(k in t)).map(k,
    {{ .path }} + '.' + (k.matches('^[-_A-Za-z0-9]{1,100}$') ? k : strings.quote(k.size() > 100 ? k.substring(0, 100) : k)) + ': ' +
    (t.exists(n, n.lowerAscii() == k.lowerAscii())
      ? 'miscapitalised, use "' + t.filter(n, n.lowerAscii() == k.lowerAscii())[0] + '"'
      : 'unknown field')) +
  {{ .value }}.filter(k, k in t && ![t[k].replace('?', '')].exists(w,
    w == 'any' ||
    {{ $field }} == null && t[k].endsWith('?') ||
    w == 'string' && type({{ $field }}) == string ||
    w == 'boolean' && type({{ $field }}) == bool ||
    w == 'integer' && (type({{ $field }}) == int || type({{ $field }}) == double && double(int({{ $field }})) == {{ $field }}) ||
    w == 'int32' && (type({{ $field }}) == int || type({{ $field }}) == double && double(int({{ $field }})) == {{ $field }}) && {{ $field }} >= -2147483648 && {{ $field }} <= 2147483647 ||
    w == 'time' && type({{ $field }}) == string &&
      {{ $field }}.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{1,2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})$') && timestamp({{ $field }}) == timestamp({{ $field }}) ||
    w == 'map of strings' && type({{ $field }}) == map && {{ $field }}.all(x, type({{ $field }}[x]) == string) ||
    w == 'list of strings' && type({{ $field }}) == list && {{ $field }}.all(x, type(x) == string) ||
    w.startsWith('list of ') && w != 'list of strings' && type({{ $field }}) == list && {{ $field }}.all(x, type(x) == map) ||
    w in variables.fields && type({{ $field }}) == map
  )).map(k, [t[k].replace('?', '')].map(w, {{ .path }} + '.' + k + ': must be ' + (
    w in variables.fields ? 'an object'
    : w == 'time' ? 'a time in RFC 3339 format, such as 2006-01-02T15:04:05Z'
    : w == 'integer' || w == 'int32' ? 'a whole number'
    : w.startsWith('list of ') && w != 'list of strings' ? 'a list of objects'
    : 'a ' + w))[0]))[0].join('; ')
{{- end -}}
