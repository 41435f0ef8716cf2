{{- define "las.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "las.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "las.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "las.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "las.selector" -}}
app.kubernetes.io/name: {{ include "las.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "las.labels" -}}
{{ include "las.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "las.image" -}}
{{- required "image: is empty, expected the LAS's image in a registry that your nodes pull from; build and push one: make images, docker push, then --set image=REGISTRY/crannog/las" .Values.image -}}
{{- end -}}

{{- define "las.serviceAccount" -}}
{{- default (include "las.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* What the test's containers may do: nothing beyond the restricted Pod Security profile. */}}
{{- define "las.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The CAS's host and port of its API for programs. */}}
{{- define "las.casPort" -}}
{{- default ":18765" (regexFind ":[0-9]+$" .Values.cas.address) | trimPrefix ":" -}}
{{- end -}}

{{- define "las.casHost" -}}
{{- regexReplaceAll ":[0-9]+$" .Values.cas.address "" -}}
{{- end -}}

{{- define "las.enrols" -}}
{{- if and .Values.cas.address .Values.cas.enrol -}}
{{- if not .Values.cas.keyHash -}}
{{- fail "cas.keyHash: is empty, expected the hash of the CAS's key, which it prints at its start (CAS key hash is …): whoever answers at cas.address would be given the LAS's token; or cas.enrol=false, to enrol by hand" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}
