# shellcheck shell=bash
# Sourced by run_hello_world.sh: the tutorial's manifests in the current Kubernetes context.

FORWARDS=()
CREATED="" # whether the namespace is ours
# All of them stop at once on SIGTERM. With no more than 5 s of grace Kubernetes also looks at once, and
# again, whether a namespace's pods are gone; with its 30 it looks again after 5 s.
GRACE=5

kubernetes_usage() {
    cat <<'EOT'
  IMAGEREPO        has to be set: this machine pushes there, and the cluster's nodes pull from there
  KUBECTL          the command, such as "kubectl --context=test" (default: kubectl)
  NAMESPACE        made, and removed at the end (default: hello-scone-RANDOM)
  SCONE_CAS_ADDR   (default: a CAS is started in the namespace, from CAS_IMAGE)
  CAS_API          HOST:PORT where this machine reaches that CAS (default: SCONE_CAS_ADDR:8081)
  CAS_PORT         of this machine, for the CAS that is started (default: 8081)
  LAS              daemonset: the tutorial's, from LAS_IMAGE, on port 18766 of each node (default)
                   installed: there is one on each node, as by the chart `las`
  SCONE_LAS_ADDR   (default: the address of a pod's own node; the tutorial has 172.17.0.1)
  SGX_RESOURCE     what each pod asks the device plugin for; empty where the cluster has no plugin
                   (default: sgx.k8s.io/sgx)
EOT
}

begin_on_kubernetes() {
    read -r -a KUBECTL <<<"${KUBECTL:-kubectl}"
    NAMESPACE=${NAMESPACE:-hello-scone-$RANDOM}
    SGX_RESOURCE=${SGX_RESOURCE-sgx.k8s.io/sgx}
    LAS=${LAS:-daemonset}
    CAS_PORT=${CAS_PORT:-8081}
    step "the settings"
    [[ -n ${IMAGEREPO-} ]] || fail "IMAGEREPO is not set" \
        "set IMAGEREPO to where this machine pushes and the cluster's nodes pull, or use --containers"
    [[ $LAS == daemonset || $LAS == installed ]] ||
        fail "LAS is $LAS, expected daemonset or installed"
    step "the cluster" "see that \`${KUBECTL[*]} get nodes\` answers, or use --containers"
    command -v "${KUBECTL[0]}" >/dev/null || fail "there is no ${KUBECTL[0]}"
    "${KUBECTL[@]}" version -o yaml >"$WORK/version.yaml" || fail "it does not answer"
    if [[ -n $SGX_RESOURCE ]] &&
        [[ -z $("${KUBECTL[@]}" get nodes -o "jsonpath={.items[*].status.allocatable.$(_dots "$SGX_RESOURCE")}") ]]; then
        fail "no node has the resource $SGX_RESOURCE" \
            "install the device plugin (helm install sgxdevplugin sconeapps/sgxdevplugin), or set SGX_RESOURCE= for pods that do not ask for it"
    fi
    step "namespace $NAMESPACE" "choose another NAMESPACE, or remove that one"
    "${KUBECTL[@]}" create namespace "$NAMESPACE" >/dev/null
    CREATED=yes
    if [[ -z ${SCONE_CAS_ADDR-} ]]; then
        _start_cas
    else
        CAS_API=${CAS_API:-$SCONE_CAS_ADDR:8081}
    fi
    if [[ -z ${SCONE_LAS_ADDR-} ]]; then
        # shellcheck disable=SC2016  # the kubelet puts the node's address there
        SCONE_LAS_ADDR='$(NODE_ADDRESS)'
    fi
    say "  CAS $SCONE_CAS_ADDR, here $CAS_API"
}

start_las_on_kubernetes() {
    [[ $LAS == daemonset ]] || return 0
    _push_other las "$LAS_IMAGE"
    step "a LAS on each node" "is port 18766 of the nodes taken by another LAS? Then set LAS=installed"
    _limits 10
    _create <<EOT
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: local-attestation
  labels:
    k8s-app: local-attestation
spec:
  selector:
    matchLabels:
      k8s-app: local-attestation
  template:
    metadata:
      labels:
        k8s-app: local-attestation
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: $GRACE
      containers:
        - name: local-attestation
          image: $OTHER
          imagePullPolicy: Always
$LIMITS
          ports:
          - containerPort: 18766
            hostPort: 18766
          readinessProbe:
            tcpSocket:
              port: 18766
            periodSeconds: 1
EOT
    _await daemonset/local-attestation k8s-app=local-attestation
}

run_on_kubernetes() { # NAME LOCAL-PORT PORT [NAME=VALUE...]
    local name=$1 port=$3
    step "starting $name" "the reason is above"
    _variables "${@:4}"
    _limits 8
    _hardened 1000
    _create <<EOT
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $name
spec:
  selector:
    matchLabels:
      run: $name
  replicas: 1
  template:
    metadata:
      labels:
        run: $name
    spec:
      terminationGracePeriodSeconds: $GRACE
      containers:
      - name: $name
        image: $IMAGE
        imagePullPolicy: Always
        ports:
        - containerPort: $port
        env:
        - name: NODE_ADDRESS
          valueFrom:
            fieldRef:
              fieldPath: status.hostIP
$VARIABLES
$LIMITS
$HARDENED
        readinessProbe:
          tcpSocket:
            port: $port
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: $name
  labels:
    run: $name
spec:
  ports:
  - port: $port
    protocol: TCP
  selector:
    run: $name
EOT
    _await "deployment/$name" "run=$name"
    _forward "$name" "$2" "$port"
}

reply_from_kubernetes() { # NAME URL; writes the file `reply`
    curl -k -s -o reply --max-time "$WAIT" "$2" || {
        show_kubernetes "$1"
        fail "$1 does not answer"
    }
    # Which level its evidence had, where it has any.
    _kubectl logs "deployment/$1" | sed -n 's/.*\(configured by CAS .*\), session version .*/  \1/p'
}

show_kubernetes() { _show "run=$1"; } # NAME

clean_up_kubernetes() {
    step "deleting namespace $NAMESPACE" "\`${KUBECTL[*]} delete namespace $NAMESPACE\` shows what it waits for"
    "${KUBECTL[@]}" delete namespace "$NAMESPACE" --timeout="${WAIT}s" >/dev/null
    CREATED=""
}

remove_from_kubernetes() {
    local forward
    for forward in "${FORWARDS[@]}"; do
        kill "$forward" 2>/dev/null || true
        wait "$forward" 2>/dev/null || true
    done
    if [[ -n $CREATED ]]; then
        "${KUBECTL[@]}" delete namespace "$NAMESPACE" --timeout="${WAIT}s" >/dev/null ||
            say "namespace $NAMESPACE is still there: ${KUBECTL[*]} delete namespace $NAMESPACE" >&2
    fi
}

_kubectl() { "${KUBECTL[@]}" --namespace "$NAMESPACE" "$@"; }

_create() { _kubectl create -f - >/dev/null; } # the manifest is read from standard input

_dots() { printf '%s' "${1//./\\.}"; }

# What manifests are put together from. Variables, since an interrupt while bash 5.2 parses a $(…) is a
# syntax error in the trap, and no `exit 130`.
_variables() { # [NAME=VALUE...]; sets VARIABLES
    local variable line
    VARIABLES=""
    for variable in "$@"; do
        printf -v line '        - name: %s\n          value: "%s"\n' \
            "${variable%%=*}" "${variable#*=}"
        VARIABLES+=$line
    done
}

_limits() { # SPACES; sets LIMITS
    LIMITS=""
    [[ -z $SGX_RESOURCE ]] || printf -v LIMITS "%$1sresources:\n%$1s  limits:\n%$1s    %s: 1" \
        '' '' '' "$SGX_RESOURCE"
}

_hardened() { # USER; sets HARDENED
    HARDENED="        securityContext:
          runAsNonRoot: true
          runAsUser: $1
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
          seccompProfile:
            type: RuntimeDefault"
}

_push_other() { # NAME IMAGE; sets OTHER to where nodes pull it from
    OTHER=$2
    in_a_registry "$2" && return
    need_image "$2" "build it with \`make images\`, or name one in a registry"
    OTHER=$REPO:crannog-$1
    "$DOCKER" tag "$2" "$OTHER"
    MADE+=("$OTHER")
    push_image "$OTHER"
}

_start_cas() {
    _push_other cas "$CAS_IMAGE"
    step "a CAS in the namespace" "the reason is above"
    _hardened 65532
    _create <<EOT
apiVersion: apps/v1
kind: Deployment
metadata:
  name: cas
spec:
  selector:
    matchLabels:
      run: cas
  template:
    metadata:
      labels:
        run: cas
    spec:
      terminationGracePeriodSeconds: $GRACE
      securityContext:
        fsGroup: 65532
      containers:
      - name: cas
        image: $OTHER
        imagePullPolicy: Always
        args: [--minimum-level, simulation]
        ports:
        - containerPort: 8081
        - containerPort: 18765
$HARDENED
        readinessProbe:
          tcpSocket:
            port: 18765
          periodSeconds: 1
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
        - name: state
          mountPath: /var/lib/crannog
      volumes:
      - name: state
        emptyDir: {}
---
apiVersion: v1
kind: Service
metadata:
  name: cas
spec:
  ports:
  - name: clients
    port: 8081
  - name: programs
    port: 18765
  selector:
    run: cas
EOT
    _await deployment/cas run=cas
    _forward cas "$CAS_PORT" 8081 ", or set CAS_PORT"
    SCONE_CAS_ADDR=cas
    CAS_API=127.0.0.1:$CAS_PORT
}

_await() { # KIND/NAME LABEL: until it is ready, or has no chance
    local deadline=$((SECONDS + WAIT)) broken
    until _kubectl rollout status "$1" --timeout=3s >"$WORK/rollout.log" 2>&1; do
        broken=$(_broken "$2")
        if [[ -n $broken ]] || ((SECONDS >= deadline)); then
            _show "$2"
            fail "$1 is not ready: ${broken:-not within $WAIT seconds}"
        fi
    done
}

_broken() { # LABEL: why waiting longer has no use; nothing where it may have
    _kubectl get pods --selector "$1" -o jsonpath='{range .items[*].status.containerStatuses[*]}{.state.waiting.reason}{" "}{.lastState.terminated.exitCode}{.state.terminated.exitCode}{"\n"}{end}' |
        while read -r waiting code; do
            case $waiting/$code in
                ImagePullBackOff* | InvalidImageName*)
                    say "its image cannot be pulled by the node ($waiting)"
                    break
                    ;;
                */78)
                    say "it is refused or misconfigured (exit code 78)"
                    break
                    ;;
            esac
        done
}

_show() { # LABEL: what a person would look at
    {
        _kubectl get pods --selector "$1" -o wide
        _kubectl get pods --selector "$1" -o jsonpath='{range .items[*].status.containerStatuses[*]}{.state.terminated.message}{.lastState.terminated.message}{"\n"}{end}'
        _kubectl logs --selector "$1" --tail=20
        _kubectl get events --field-selector type=Warning \
            -o custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message
    } >&2 || true
}

_forward() { # SERVICE LOCAL-PORT PORT [MORE TO DO]: until the port is listened on
    local lines line reading
    step "forwarding localhost:$2 to svc/$1" "see that port $2 of this machine is free${4-}"
    lines=$WORK/forward.$2
    mkfifo "$lines"
    # One address: with two kubectl would go on where somebody else has the port at one of them.
    "${KUBECTL[@]}" --namespace "$NAMESPACE" port-forward --address 127.0.0.1 \
        "svc/$1" "$2:$3" >"$lines" 2>&1 &
    FORWARDS+=($!)
    exec {reading}<"$lines" # stays open: kubectl writes a line for each connection
    while IFS= read -r -t "$WAIT" -u "$reading" line; do
        [[ $line != "Forwarding from"* ]] || return 0
        say "  $line" >&2
    done
    fail "kubectl port-forward ended or said nothing for $WAIT seconds"
}
