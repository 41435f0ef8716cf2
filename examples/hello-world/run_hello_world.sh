#!/usr/bin/env bash
# The tutorial "SCONE on Kubernetes", executed with containers on one machine: its order, its names,
# its four programs. Each reply is compared exactly.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: [NAME=VALUE...] run_hello_world.sh [--help]

Runs the tutorial's four programs in containers of this machine and compares each reply: Hello World!,
attested, with TLS certificates that the CAS generated, and with encrypted source code. Ends with
"All tests were successful.", or says what failed and what to do. Removes what it made.

  DOCKER           the engine: docker, podman (default: the one of them that answers `info`)
  BASE_IMAGE       the curated image (default: crannog/python; `make images` builds it)
  PLATFORM         images: CAS and LAS as containers (default)
                   up:     `crannog up` on this machine; it needs ports 8081, 18765 and 18766
                   given:  the CAS and LAS of the next two (default where SCONE_CAS_ADDR is set)
  SCONE_CAS_ADDR   address of the CAS, without a port, for this machine and for containers
  SCONE_LAS_ADDR   address of the LAS, without a port, for containers (default: SCONE_CAS_ADDR)
  CAS_IMAGE        the CAS's image (default: crannog/cas)
  LAS_IMAGE        the LAS's image (default: crannog/las)
  CRANNOG          the command for PLATFORM=up (default: crannog)
  IMAGEREPO        where the built images are pushed, such as localhost:5000/hello-world. They are
                   built with --pull then, so that BASE_IMAGE has to be in a registry, and stay there
                   (default: they are not pushed, and are removed at the end)
  RUN_OPTIONS      further options for every `run`, such as "--ulimit=nofile=1024:4096"
  WAIT             seconds that a program may take to its first reply (default: 60)

Ports 8080, 8082, 8083 and 8084 of 127.0.0.1 have to be free, as in the tutorial. It needs curl and
openssl. The trust level is simulation: nothing is proved to anybody.
EOF
}

case "${1-}" in
    "") ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

# --- what is used ---------------------------------------------------------------------------------

RUN="hello-scone-$$-$RANDOM"
BASE_IMAGE=${BASE_IMAGE:-crannog/python}
CAS_IMAGE=${CAS_IMAGE:-crannog/cas}
LAS_IMAGE=${LAS_IMAGE:-crannog/las}
CRANNOG=${CRANNOG:-crannog}
WAIT=${WAIT:-60}
LOCAL_REPO="localhost/$RUN"
REPO=${IMAGEREPO:-$LOCAL_REPO}
LABEL="hello-scone-run=$RUN"
# What the tutorial's manifests do not ask for, its containers do not get.
HARDENED=(--cap-drop=all --security-opt=no-new-privileges --read-only --user=1000:1000)
read -r -a RUN_OPTIONS <<<"${RUN_OPTIONS-}"
if [[ -n ${SCONE_CAS_ADDR-} ]]; then
    PLATFORM=${PLATFORM:-given}
else
    PLATFORM=${PLATFORM:-images}
fi

WORK=""
UP=""
DOING="nothing yet"
MITIGATION="see run_hello_world.sh --help"

say() { printf '%s\n' "$@"; }
step() { # WHAT [WHAT TO DO WHEN IT FAILS]
    DOING=$1
    MITIGATION=${2:-"see the lines above, and run_hello_world.sh --help"}
    say "- $1"
}
fail() { # WHAT WAS FOUND [WHAT TO DO]
    say "  $1" >&2
    MITIGATION=${2:-$MITIGATION}
    exit 1
}

# --- cleaning up, also when interrupted --------------------------------------------------------------

remove_containers() {
    local found
    found=$("$DOCKER" ps --all --quiet --filter "label=$LABEL") || return 0
    # shellcheck disable=SC2086  # one word for each container
    [[ -z $found ]] || "$DOCKER" rm --force --volumes "${AT_ONCE[@]}" $found >/dev/null || true
}

remove_images() {
    local tag
    for tag in hello-k8s-scone0.1 hello-k8s-scone0.2 hello-k8s-scone-0.3; do
        "$DOCKER" rmi --force "$REPO:$tag" >/dev/null 2>&1 || true
    done
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP # the clean-up itself is not interrupted
    if ((status != 0)); then
        say "" "FAILED: $DOING" >&2
        say "What to do: $MITIGATION" >&2
    fi
    if [[ -n $UP ]]; then
        kill "$UP" 2>/dev/null || true
        wait "$UP" 2>/dev/null || true
    fi
    if [[ -n $WORK ]]; then
        remove_containers
        if ((EUID != 0)) && [[ -e $WORK/app_image ]]; then
            # What a container's root made in a volume may belong to root.
            docker_run --rm --volume "$WORK:/tutorial" "$BASE_IMAGE" \
                rm -rf /tutorial/app_image /tutorial/app || true
        fi
        remove_images
        rm -rf "$WORK"
    fi
    exit "$status"
}

# --- the engine -------------------------------------------------------------------------------------

find_engine() {
    local program
    if [[ -z ${DOCKER-} ]]; then
        for program in docker podman; do
            if "$program" info >/dev/null 2>&1; then
                DOCKER=$program
                break
            fi
        done
        [[ -n ${DOCKER-} ]] || fail "neither docker nor podman answers" \
            "install Docker or Podman, and see that this user may use it: docker info"
    fi
    "$DOCKER" info >/dev/null || fail "$DOCKER info failed" "start $DOCKER, or choose DOCKER=podman"
    AT_ONCE=()
    if [[ $("$DOCKER" --version) == *[pP]odman* ]]; then
        AT_ONCE=(--time 0)
    fi
}

docker_run() { "$DOCKER" run --label "$LABEL" "${RUN_OPTIONS[@]}" "$@"; }

address_of() { "$DOCKER" inspect -f '{{.NetworkSettings.IPAddress}}' "$1"; }

is_running() { [[ $("$DOCKER" inspect -f '{{.State.Running}}' "$1" 2>/dev/null) == true ]]; }

need_image() { # IMAGE WHERE IT COMES FROM
    "$DOCKER" image inspect "$1" >/dev/null 2>&1 || "$DOCKER" pull "$1" >/dev/null ||
        fail "there is no image $1" "$2"
}

# --- CAS and LAS ------------------------------------------------------------------------------------

start_platform() {
    case $PLATFORM in
        given)
            [[ -n ${SCONE_CAS_ADDR-} ]] || fail "PLATFORM=given without SCONE_CAS_ADDR"
            SCONE_LAS_ADDR=${SCONE_LAS_ADDR:-$SCONE_CAS_ADDR}
            ;;
        images)
            need_image "$CAS_IMAGE" "build it with \`make images\`, or set CAS_IMAGE"
            need_image "$LAS_IMAGE" "build it with \`make images\`, or set LAS_IMAGE"
            docker_run --detach --name "$RUN-cas" --cap-drop=all --security-opt=no-new-privileges \
                "$CAS_IMAGE" --minimum-level simulation >/dev/null
            docker_run --detach --name "$RUN-las" --cap-drop=all --security-opt=no-new-privileges \
                "$LAS_IMAGE" >/dev/null
            SCONE_CAS_ADDR=$(address_of "$RUN-cas")
            SCONE_LAS_ADDR=$(address_of "$RUN-las")
            ;;
        up)
            command -v "$CRANNOG" >/dev/null ||
                fail "there is no command $CRANNOG" "put .venv/bin into PATH, or set CRANNOG"
            SCONE_CAS_ADDR=$(host_address)
            SCONE_LAS_ADDR=$SCONE_CAS_ADDR
            # Podman's network is there only while a container is in it.
            docker_run --detach --name "$RUN-network" "${HARDENED[@]}" "$BASE_IMAGE" \
                sleep 86400 >/dev/null
            "$CRANNOG" up --listen 0.0.0.0 --state-directory "$WORK/up" >"$WORK/up.log" 2>&1 &
            UP=$!
            ;;
        *)
            fail "PLATFORM is $PLATFORM, expected images, up or given"
            ;;
    esac
}

host_address() { # this machine as containers of the engine's default network see it
    if ((${#AT_ONCE[@]})); then
        "$DOCKER" network inspect podman -f '{{range .Subnets}}{{.Gateway}}{{end}}'
    else
        "$DOCKER" network inspect bridge -f '{{(index .IPAM.Config 0).Gateway}}'
    fi
}

wait_for_cas() {
    local deadline=$((SECONDS + WAIT))
    until curl -k -s -o "$WORK/version" "https://$SCONE_CAS_ADDR:8081/v1/version"; do
        if [[ $PLATFORM == images ]] && ! is_running "$RUN-cas"; then
            "$DOCKER" logs "$RUN-cas" >&2
            fail "the CAS's container ended"
        elif [[ $PLATFORM == up ]] && ! kill -0 "$UP" 2>/dev/null; then
            cat "$WORK/up.log" >&2
            fail "crannog up ended" "see that ports 8081, 18765 and 18766 are free"
        elif ((SECONDS >= deadline)); then
            fail "no CAS answers at https://$SCONE_CAS_ADDR:8081 within $WAIT seconds" \
                "see that it runs, and that its address is reached from here and from containers"
        fi
        sleep 0.2
    done
    if [[ $PLATFORM == images ]] && ! is_running "$RUN-las"; then
        "$DOCKER" logs "$RUN-las" >&2
        fail "the LAS's container ended"
    fi
}

# --- what each step does ----------------------------------------------------------------------------

build_image() { # TAG; sets IMAGE
    IMAGE=$REPO:$1
    step "building $IMAGE" "see what the engine says; BASE_IMAGE is $BASE_IMAGE"
    local pull=()
    [[ -z ${IMAGEREPO-} ]] || pull=(--pull)
    "$DOCKER" build "${pull[@]}" . -t "$IMAGE" >"$WORK/build.log" 2>&1 ||
        { tail -n 20 "$WORK/build.log" >&2; fail "the build failed"; }
    if [[ -n ${IMAGEREPO-} ]]; then
        step "pushing $IMAGE" "see that the registry of IMAGEREPO runs and lets you push"
        "$DOCKER" push "$IMAGE" >"$WORK/push.log" 2>&1 ||
            { tail -n 20 "$WORK/push.log" >&2; fail "the push failed"; }
    fi
}

is_mrenclave() { [[ $1 =~ ^[0-9a-f]{64}$ ]]; }

extract_mrenclave() { # sets MRENCLAVE
    step "extracting MRENCLAVE of $IMAGE" "is BASE_IMAGE=$BASE_IMAGE a curated image of Crannog?"
    MRENCLAVE=$(docker_run -i --rm -e "SCONE_HASH=1" "$IMAGE" </dev/null)
    is_mrenclave "$MRENCLAVE" || fail "found: $MRENCLAVE"
    say "  $MRENCLAVE"
}

post_session() { # FILE
    step "posting $1 to the CAS" "its answer is above; a name can be posted once"
    local status
    status=$(curl -k -s --cert conf/client.crt --key conf/client-key.key --data-binary "@$1" \
        -X POST -o answer.json -w '%{http_code}' "https://$SCONE_CAS_ADDR:8081/session")
    if [[ $status != 201 ]]; then
        cat answer.json >&2
        fail "HTTP status $status, expected 201"
    fi
}

run_app() { # NAME LOCAL-PORT PORT [OPTION...]
    local name=$1 ports="127.0.0.1:$2:$3"
    shift 3
    step "starting $name" "its output is above; see that 127.0.0.1's port is free"
    docker_run --detach --name "$RUN-$name" --publish "$ports" "${HARDENED[@]}" "$@" "$IMAGE" \
        >/dev/null
}

attested_options() { # SESSION LAS-ADDRESS; sets OPTIONS
    OPTIONS=(
        -e "SCONE_CAS_ADDR=$SCONE_CAS_ADDR"
        -e "SCONE_CONFIG_ID=$1/application"
        -e "SCONE_LAS_ADDR=$2"
    )
}

expect_greeting() { # NAME URL GREETING
    step "curl $2" "the container's output is above"
    printf 'Hello World!\n$GREETING is: %s\n' "$3" >expected
    local deadline=$((SECONDS + WAIT))
    until curl -k -s -o reply "$2"; do
        if ! is_running "$RUN-$1" || ((SECONDS >= deadline)); then
            "$DOCKER" logs "$RUN-$1" >&2
            fail "$1 does not answer"
        fi
        sleep 0.1
    done
    if ! cmp -s expected reply; then
        "$DOCKER" logs "$RUN-$1" >&2
        fail "reply: $(cat reply); expected: $(cat expected)"
    fi
    sed 's/^/  /' reply
}

# --- the tutorial -----------------------------------------------------------------------------------

before_you_begin() {
    say "Before you begin"
    step "the tools"
    local tool
    for tool in curl openssl awk cmp; do
        command -v "$tool" >/dev/null || fail "there is no $tool" "install $tool"
    done
    step "the engine" "install Docker or Podman, and see that it answers: docker info"
    find_engine
    say "  $DOCKER"
    WORK=$(mktemp -d)
    cd "$WORK"
    step "the base image $BASE_IMAGE" "build one with \`make images\`, or set BASE_IMAGE"
    need_image "$BASE_IMAGE" "$MITIGATION"
    local hash
    hash=$(docker_run --rm -e "SCONE_HASH=1" "$BASE_IMAGE" python3 -c "" 2>"$WORK/hash.log" \
        </dev/null) || true
    if ! is_mrenclave "$hash"; then
        cat "$WORK/hash.log" >&2
        fail "its python3 prints no MRENCLAVE: it is no curated image of Crannog"
    fi
    step "CAS and LAS ($PLATFORM)"
    start_platform
    wait_for_cas
    say "  CAS $SCONE_CAS_ADDR, LAS $SCONE_LAS_ADDR"

    step "client certificate" "install openssl"
    mkdir -p conf
    openssl req -x509 -newkey rsa:4096 -out conf/client.crt -keyout conf/client-key.key -days 31 \
        -nodes -sha256 -subj "/C=US/ST=Dresden/L=Saxony/O=Scontain/OU=Org/CN=www.scontain.com" \
        -addext "subjectAltName=DNS:www.scontain.com" 2>/dev/null

    export NS="HelloWorld-$RANDOM-$RANDOM"
    cat >namespace.yaml <<EOF
name: $NS

access_policy:
  read:
   - CREATOR
  update:
   - CREATOR
EOF
    post_session namespace.yaml
}

hello_world() {
    say "" "Hello World!"
    mkdir -p app
    cat >app/server.py <<'EOF'
from http.server import HTTPServer
from http.server import BaseHTTPRequestHandler
import os


class HTTPHelloWorldHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        """say "Hello World!" and the value of `GREETING` env. variable."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'Hello World!\n$GREETING is: %s\n' % (os.getenv('GREETING', 'no greeting :(').encode()))


httpd = HTTPServer(('0.0.0.0', 8080), HTTPHelloWorldHandler)


httpd.serve_forever()
EOF
    cat >Dockerfile <<EOF
FROM $BASE_IMAGE
EXPOSE 8080
COPY app /app
CMD [ "python3", "/app/server.py" ]
EOF
    build_image hello-k8s-scone0.1
    run_app hello-world 8080 8080 -e GREETING=howdy!
    expect_greeting hello-world http://localhost:8080 "howdy!"
}

remote_attestation() {
    say "" "Run with remote attestation"
    extract_mrenclave
    cat >session.yaml <<EOF
name: $NS~hello-k8s-scone
version: "0.2"

services:
   - name: application
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server.py
     pwd: /
     environment:
        GREETING: hello from SCONE!!!
EOF
    post_session session.yaml
    attested_options "$NS~hello-k8s-scone" "$SCONE_LAS_ADDR:18766"
    run_app attested-hello-world 8082 8080 "${OPTIONS[@]}"
    expect_greeting attested-hello-world http://localhost:8082 "hello from SCONE!!!"
}

tls_certificates() {
    say "" "TLS with certificates auto-generated by CAS"
    # The tutorial's ssl.wrap_socket is gone in Python 3.12; a context does the same with any Python.
    sed -e 's/^import os$/import os\nimport ssl/' -e 's/8080/4443/' -e '/^httpd.serve_forever/d' \
        app/server.py >app/server-tls.py
    cat >>app/server-tls.py <<'EOF'
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certfile="/app/cert.pem", keyfile="/app/key.pem")
httpd.socket = context.wrap_socket(httpd.socket, server_side=True)


httpd.serve_forever()
EOF
    cat >Dockerfile <<EOF
FROM $BASE_IMAGE
EXPOSE 4443
COPY app /app
CMD [ "python3" ]
EOF
    build_image hello-k8s-scone0.2
    extract_mrenclave
    tls_session hello-k8s-scone-tls-certs "hello from SCONE with TLS and auto-generated certs!!!" \
        >session-tls-certs.yaml
    post_session session-tls-certs.yaml
    attested_options "$NS~hello-k8s-scone-tls-certs" "$SCONE_LAS_ADDR"
    run_app attested-hello-world-tls-certs 8083 4443 "${OPTIONS[@]}"
    expect_greeting attested-hello-world-tls-certs https://localhost:8083 \
        "hello from SCONE with TLS and auto-generated certs!!!"
}

tls_session() { # NAME GREETING [LINE OF THE SERVICE...]
    cat <<EOF
name: $NS~$1
version: "0.2"

services:
   - name: application
     image_name: application_image
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server-tls.py
     pwd: /
     environment:
        GREETING: $2
$(printf '     %s\n' "${@:3}")

images:
   - name: application_image
     injection_files:
       - path:  /app/cert.pem
         content: \$\$SCONE::SERVER_CERT.crt\$\$
       - path: /app/key.pem
         content: \$\$SCONE::SERVER_CERT.key\$\$

secrets:
   - name: SERVER_CERT
     kind: x509
EOF
}

encrypt_source_code() {
    say "" "Encrypt your source code"
    step "encrypting /app in a container of $BASE_IMAGE" "is BASE_IMAGE a curated image of Crannog?"
    # SC2016: the container's shell, not this one, is what the text is for.
    # shellcheck disable=SC2016
    docker_run --rm -e SCONE_MODE=sim -v "$PWD:/tutorial" "$BASE_IMAGE" sh -ec '
cd /tutorial
rm -rf app_image && mkdir -p app_image/app
cd app_image
scone fspf create fspf.pb
scone fspf addr fspf.pb / --not-protected --kernel /
scone fspf addr fspf.pb /app --encrypted --kernel /app
scone fspf addf fspf.pb /app /tutorial/app /tutorial/app_image/app
scone fspf encrypt fspf.pb > /tutorial/app/keytag
' >"$WORK/fspf.log"
    if grep -q HTTPServer app_image/app/server-tls.py; then
        fail "app_image/app/server-tls.py is not encrypted"
    fi
    cat >Dockerfile <<EOF
FROM $BASE_IMAGE
EXPOSE 4443
COPY app_image /
CMD [ "python3" ]
EOF
    build_image hello-k8s-scone-0.3
    extract_mrenclave
    SCONE_FSPF_KEY=$(awk '{print $11}' app/keytag)
    SCONE_FSPF_TAG=$(awk '{print $9}' app/keytag)
    tls_session hello-k8s-scone-tls \
        "hello from SCONE with encrypted source code and auto-generated certs!!!" \
        "fspf_path: /fspf.pb" "fspf_key: $SCONE_FSPF_KEY" "fspf_tag: $SCONE_FSPF_TAG" \
        >session-tls.yaml
    post_session session-tls.yaml
    attested_options "$NS~hello-k8s-scone-tls" "$SCONE_LAS_ADDR"
    run_app attested-hello-world-tls 8084 4443 "${OPTIONS[@]}"
    expect_greeting attested-hello-world-tls https://localhost:8084 \
        "hello from SCONE with encrypted source code and auto-generated certs!!!"
}

clean_up() {
    say "" "Clean up"
    local name
    for name in hello-world attested-hello-world attested-hello-world-tls-certs \
        attested-hello-world-tls; do
        step "stopping $name"
        "$DOCKER" stop "$RUN-$name" >/dev/null
    done
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
before_you_begin
hello_world
remote_attestation
tls_certificates
encrypt_source_code
clean_up
step "done"
say "" "All tests were successful."
