#!/usr/bin/env bash
# The tutorial "SCONE on Kubernetes", executed: its order, its names, its four programs, each reply
# compared exactly. Where the programs run is the other two files' business: on_kubernetes.sh, or
# on_containers.sh with --containers.
set -euo pipefail

usage() {
    cat <<'EOT'
usage: [NAME=VALUE...] run_hello_world.sh [--containers] [--help]

Runs the tutorial's four programs and compares each reply: Hello World!, attested, with TLS
certificates that the CAS generated, and with encrypted source code. Ends with "All tests were
successful.", or says what failed and what to do. Removes what it made, also when it is interrupted.

Without an option the programs run in the current Kubernetes context, in a namespace of their own;
with --containers as containers of this machine. The trust level is simulation unless SCONE_CAS_ADDR
names a CAS that knows the nodes: nothing is proved to anybody.

For both:
  DOCKER           the engine that builds: docker, podman (default: the one that answers `info`)
  BASE_IMAGE       the curated image (default: crannog/python; `make images` builds it)
  CLI_IMAGE        the image whose `scone fspf` encrypts (default: BASE_IMAGE)
  SCONE_CAS_ADDR   address of the CAS, without a port, for programs and for this machine
                   (default: one is started)
  SCONE_LAS_ADDR   address of the LAS, without a port, for programs
  CAS_IMAGE        the CAS's image (default: crannog/cas)
  LAS_IMAGE        the LAS's image (default: crannog/las)
  IMAGEREPO        where the built images are pushed, such as registry.example/hello-scone. They stay
                   there
  WAIT             seconds that a program may take to its first reply (default: 60)
EOT
    printf '\nOn Kubernetes:\n'
    kubernetes_usage
    printf '\nWith --containers:\n'
    containers_usage
    cat <<'EOT'

Ports 8080, 8082, 8083 and 8084 of 127.0.0.1 have to be free, as in the tutorial; on Kubernetes 8081
(CAS_PORT) as well, where a CAS is started. It needs bash, curl and openssl.
EOT
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=on_kubernetes.sh
source "$HERE/on_kubernetes.sh"
# shellcheck source=on_containers.sh
source "$HERE/on_containers.sh"

PLACE=kubernetes
for option in "$@"; do
    case $option in
        --containers) PLACE=containers ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
done

# --- what is used ---------------------------------------------------------------------------------

RUN="hello-scone-$$-$RANDOM"
BASE_IMAGE=${BASE_IMAGE:-crannog/python}
CLI_IMAGE=${CLI_IMAGE:-$BASE_IMAGE}
CAS_IMAGE=${CAS_IMAGE:-crannog/cas}
LAS_IMAGE=${LAS_IMAGE:-crannog/las}
WAIT=${WAIT:-60}
REPO=${IMAGEREPO:-localhost/$RUN}
LABEL="hello-scone-run=$RUN"
read -r -a RUN_OPTIONS <<<"${RUN_OPTIONS-}"

WORK=""
MADE=() # images in the engine
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

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP # the clean-up itself is not interrupted
    if ((status != 0)); then
        say "" "FAILED: $DOING" >&2
        say "What to do: $MITIGATION" >&2
    fi
    if [[ -n $WORK ]]; then
        cd /
        "remove_from_$PLACE"
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

remove_containers() {
    local found
    found=$("$DOCKER" ps --all --quiet --filter "label=$LABEL") || return 0
    # shellcheck disable=SC2086  # one word for each container
    [[ -z $found ]] || "$DOCKER" rm --force --volumes "${AT_ONCE[@]}" $found >/dev/null || true
}

remove_images() {
    local image
    for image in "${MADE[@]}"; do
        "$DOCKER" rmi --force "$image" >/dev/null 2>&1 || true
    done
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

need_image() { # IMAGE WHERE IT COMES FROM
    "$DOCKER" image inspect "$1" >/dev/null 2>&1 || "$DOCKER" pull "$1" >/dev/null ||
        fail "there is no image $1" "$2"
}

in_a_registry() { # IMAGE: whether its name begins with a registry's
    local first=${1%%/*}
    [[ $1 == */* && $first != localhost && ($first == *.* || $first == *:*) ]]
}

push_image() { # IMAGE
    step "pushing $1" "see that the registry of IMAGEREPO runs and lets you push"
    "$DOCKER" push "$1" >"$WORK/push.log" 2>&1 ||
        { tail -n 20 "$WORK/push.log" >&2; fail "the push failed"; }
}

build_image() { # TAG; sets IMAGE
    IMAGE=$REPO:$1
    step "building $IMAGE" "see what the engine says; BASE_IMAGE is $BASE_IMAGE"
    local pull=()
    [[ -z ${IMAGEREPO-} ]] || ! in_a_registry "$BASE_IMAGE" || pull=(--pull)
    "$DOCKER" build "${pull[@]}" . -t "$IMAGE" >"$WORK/build.log" 2>&1 ||
        { tail -n 20 "$WORK/build.log" >&2; fail "the build failed"; }
    MADE+=("$IMAGE")
    [[ -z ${IMAGEREPO-} ]] || push_image "$IMAGE"
}

# --- what each step does ----------------------------------------------------------------------------

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
        -X POST -o answer.json -w '%{http_code}' "https://$CAS_API/session") ||
        fail "no CAS answers at https://$CAS_API"
    if [[ $status != 201 ]]; then
        cat answer.json >&2
        fail "HTTP status $status, expected 201"
    fi
}

expect_greeting() { # NAME URL GREETING
    step "curl $2" "the program's output is above"
    # shellcheck disable=SC2016  # the tutorial's reply has a dollar
    printf 'Hello World!\n$GREETING is: %s\n' "$3" >expected
    "reply_from_$PLACE" "$1" "$2"
    if ! cmp -s expected reply; then
        "show_$PLACE" "$1"
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
    "begin_on_$PLACE" # sets SCONE_CAS_ADDR and CAS_API

    step "client certificate" "install openssl"
    mkdir -p conf
    openssl req -x509 -newkey rsa:4096 -out conf/client.crt -keyout conf/client-key.key -days 31 \
        -nodes -sha256 -subj "/C=US/ST=Dresden/L=Saxony/O=Scontain/OU=Org/CN=www.scontain.com" \
        -addext "subjectAltName=DNS:www.scontain.com" 2>/dev/null

    export NS="HelloWorld-$RANDOM-$RANDOM"
    cat >namespace.yaml <<EOT
name: $NS

access_policy:
  read:
   - CREATOR
  update:
   - CREATOR
EOT
    post_session namespace.yaml
}

hello_world() {
    say "" "Hello World!"
    mkdir -p app
    cat >app/server.py <<'EOT'
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
EOT
    cat >Dockerfile <<EOT
FROM $BASE_IMAGE
EXPOSE 8080
COPY app /app
CMD [ "python3", "/app/server.py" ]
EOT
    build_image hello-k8s-scone0.1
    "run_on_$PLACE" hello-world 8080 8080 GREETING=howdy!
    expect_greeting hello-world http://localhost:8080 "howdy!"
}

remote_attestation() {
    say "" "Run with remote attestation"
    "start_las_on_$PLACE"
    extract_mrenclave
    cat >session.yaml <<EOT
name: $NS~hello-k8s-scone
version: "0.2"

services:
   - name: application
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server.py
     pwd: /
     environment:
        GREETING: hello from SCONE!!!
EOT
    post_session session.yaml
    run_attested attested-hello-world 8082 8080 hello-k8s-scone :18766
    expect_greeting attested-hello-world http://localhost:8082 "hello from SCONE!!!"
}

run_attested() { # NAME LOCAL-PORT PORT SESSION [PORT OF THE LAS, WITH A COLON]
    "run_on_$PLACE" "$1" "$2" "$3" "SCONE_CAS_ADDR=$SCONE_CAS_ADDR" \
        "SCONE_CONFIG_ID=$NS~$4/application" "SCONE_LAS_ADDR=$SCONE_LAS_ADDR${5-}"
}

tls_certificates() {
    say "" "TLS with certificates auto-generated by CAS"
    # The tutorial's ssl.wrap_socket is gone in Python 3.12; a context does the same with any Python.
    sed -e 's/^import os$/import os\nimport ssl/' -e 's/8080/4443/' -e '/^httpd.serve_forever/d' \
        app/server.py >app/server-tls.py
    cat >>app/server-tls.py <<'EOT'
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certfile="/app/cert.pem", keyfile="/app/key.pem")
httpd.socket = context.wrap_socket(httpd.socket, server_side=True)


httpd.serve_forever()
EOT
    cat >Dockerfile <<EOT
FROM $BASE_IMAGE
EXPOSE 4443
COPY app /app
CMD [ "python3" ]
EOT
    build_image hello-k8s-scone0.2
    extract_mrenclave
    tls_session hello-k8s-scone-tls-certs "hello from SCONE with TLS and auto-generated certs!!!" \
        >session-tls-certs.yaml
    post_session session-tls-certs.yaml
    run_attested attested-hello-world-tls-certs 8083 4443 hello-k8s-scone-tls-certs
    expect_greeting attested-hello-world-tls-certs https://localhost:8083 \
        "hello from SCONE with TLS and auto-generated certs!!!"
}

tls_session() { # NAME GREETING [LINE OF THE SERVICE...]
    cat <<EOT
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
EOT
}

encrypt_source_code() {
    say "" "Encrypt your source code"
    step "encrypting /app in a container of $CLI_IMAGE" "is CLI_IMAGE a curated image of Crannog?"
    # SC2016: the container's shell, not this one, is what the text is for.
    # shellcheck disable=SC2016
    docker_run --rm -e SCONE_MODE=sim -v "$PWD:/tutorial" "$CLI_IMAGE" sh -ec '
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
    cat >Dockerfile <<EOT
FROM $BASE_IMAGE
EXPOSE 4443
COPY app_image /
CMD [ "python3" ]
EOT
    build_image hello-k8s-scone-0.3
    extract_mrenclave
    SCONE_FSPF_KEY=$(awk '{print $11}' app/keytag)
    SCONE_FSPF_TAG=$(awk '{print $9}' app/keytag)
    tls_session hello-k8s-scone-tls \
        "hello from SCONE with encrypted source code and auto-generated certs!!!" \
        "fspf_path: /fspf.pb" "fspf_key: $SCONE_FSPF_KEY" "fspf_tag: $SCONE_FSPF_TAG" \
        >session-tls.yaml
    post_session session-tls.yaml
    run_attested attested-hello-world-tls 8084 4443 hello-k8s-scone-tls
    expect_greeting attested-hello-world-tls https://localhost:8084 \
        "hello from SCONE with encrypted source code and auto-generated certs!!!"
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
say "" "Clean up"
"clean_up_$PLACE"
step "done"
say "" "All tests were successful."
