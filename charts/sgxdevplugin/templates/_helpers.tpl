{{- define "sgxdevplugin.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "sgxdevplugin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "sgxdevplugin.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sgxdevplugin.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sgxdevplugin.selector" -}}
app.kubernetes.io/name: {{ include "sgxdevplugin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sgxdevplugin.labels" -}}
{{ include "sgxdevplugin.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sgxdevplugin.image" -}}
{{- required "image: is empty, expected the plugin's image in a registry that your nodes pull from; build and push one: make images, docker push, then --set image=REGISTRY/crannog/sgx-plugin" .Values.image -}}
{{- end -}}

{{- define "sgxdevplugin.serviceAccount" -}}
{{- default (include "sgxdevplugin.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* What every container here may do; the test's besides run as nobody. */}}
{{- define "sgxdevplugin.containerSecurity" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The name of what belongs to the whole cluster, so that it has the namespace in it. */}}
{{- define "sgxdevplugin.cluster" -}}
{{- printf "%s-%s" .Release.Namespace (include "sgxdevplugin.fullname" .) -}}
{{- end -}}
