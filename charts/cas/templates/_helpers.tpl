{{- define "cas.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "cas.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "cas.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "cas.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cas.selector" -}}
app.kubernetes.io/name: {{ include "cas.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cas.labels" -}}
{{ include "cas.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "cas.image" -}}
{{- required "image: is empty, expected the CAS's image in a registry that your nodes pull from; build and push one: make images, docker push, then --set image=REGISTRY/crannog/cas" .Values.image -}}
{{- end -}}

{{- define "cas.minimumLevel" -}}
{{- required "minimumLevel: is empty, expected simulation, node or hardware: the weakest evidence that gets a configuration; simulation proves nothing and is for development" .Values.minimumLevel -}}
{{- end -}}

{{- define "cas.serviceAccount" -}}
{{- default (include "cas.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Whether the token and the authority of this cluster's API server are needed. */}}
{{- define "cas.asksCluster" -}}
{{- if and .Values.lasEnrolment.subjects (not .Values.lasEnrolment.keys) -}}yes{{- end -}}
{{- end -}}

{{/* The claim that holds the database; empty where none does. */}}
{{- define "cas.claim" -}}
{{- if .Values.persistence.enabled -}}
{{- default (printf "state-%s-0" (include "cas.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}
{{- end -}}

{{- define "cas.keyProvider" -}}
{{- if .Values.masterKey.existingSecret -}}env:CRANNOG_MASTER_KEY{{- else -}}file{{- end -}}
{{- end -}}

{{/* What a container of this pod may do: nothing beyond the restricted Pod Security profile. */}}
{{- define "cas.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "cas.keyEnvironment" -}}
{{- if or .Values.masterKey.existingSecret .Values.env -}}
env:
  {{- with .Values.masterKey }}
  {{- if .existingSecret }}
  - name: CRANNOG_MASTER_KEY
    valueFrom:
      secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
  {{- end }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* A PersistentVolume belongs to the whole cluster, so that its name has the namespace in it. */}}
{{- define "cas.volume" -}}
{{- printf "%s-%s-state" .Release.Namespace (include "cas.fullname" .) -}}
{{- end -}}
