# shellcheck shell=bash
# Sourced by run_hello_world.sh: the tutorial's manifests become `docker run` on this machine.

# What the tutorial's manifests do not ask for, its containers do not get.
HARDENED=(--cap-drop=all --security-opt=no-new-privileges --read-only --user=1000:1000)
UP=""

containers_usage() {
    cat <<'EOT'
  PLATFORM         images: CAS and LAS as containers (default)
                   up:     `crannog up` on this machine; it needs ports 8081, 18765 and 18766
                   given:  SCONE_CAS_ADDR and SCONE_LAS_ADDR (default where the first is set; the
                           second is then the same by default)
  CRANNOG          the command for PLATFORM=up (default: crannog)
  IMAGEREPO        (default: the images are not pushed, and are removed at the end)
  RUN_OPTIONS      further options for every `run`, such as "--ulimit=nofile=1024:4096"
EOT
}

begin_on_containers() {
    if [[ -n ${SCONE_CAS_ADDR-} ]]; then
        PLATFORM=${PLATFORM:-given}
    else
        PLATFORM=${PLATFORM:-images}
    fi
    step "CAS and LAS ($PLATFORM)"
    _start_platform
    CAS_API=$SCONE_CAS_ADDR:8081
    _wait_for_cas
    say "  CAS $SCONE_CAS_ADDR, LAS $SCONE_LAS_ADDR"
}

start_las_on_containers() { :; } # it was started with the CAS

run_on_containers() { # NAME LOCAL-PORT PORT [NAME=VALUE...]
    local name=$1 ports="127.0.0.1:$2:$3" options=() variable
    for variable in "${@:4}"; do
        options+=(-e "$variable")
    done
    step "starting $name" "its output is above; see that 127.0.0.1's port is free"
    docker_run --detach --name "$RUN-$name" --publish "$ports" "${HARDENED[@]}" "${options[@]}" \
        "$IMAGE" >/dev/null
}

reply_from_containers() { # NAME URL; writes the file `reply`
    local deadline=$((SECONDS + WAIT))
    until curl -k -s -o reply "$2"; do
        if ! _is_running "$RUN-$1" || ((SECONDS >= deadline)); then
            show_containers "$1"
            fail "$1 does not answer"
        fi
        sleep 0.1
    done
}

show_containers() { "$DOCKER" logs "$RUN-$1" >&2; } # NAME

clean_up_containers() {
    local name
    for name in hello-world attested-hello-world attested-hello-world-tls-certs \
        attested-hello-world-tls; do
        step "stopping $name"
        "$DOCKER" stop "$RUN-$name" >/dev/null
    done
}

remove_from_containers() {
    if [[ -n $UP ]]; then
        kill "$UP" 2>/dev/null || true
        wait "$UP" 2>/dev/null || true
    fi
}

_start_platform() {
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
            SCONE_CAS_ADDR=$(_address_of "$RUN-cas")
            SCONE_LAS_ADDR=$(_address_of "$RUN-las")
            ;;
        up)
            CRANNOG=${CRANNOG:-crannog}
            command -v "$CRANNOG" >/dev/null ||
                fail "there is no command $CRANNOG" "put .venv/bin into PATH, or set CRANNOG"
            SCONE_CAS_ADDR=$(_host_address)
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

_wait_for_cas() {
    local deadline=$((SECONDS + WAIT))
    until curl -k -s -o "$WORK/version" "https://$CAS_API/v1/version"; do
        if [[ $PLATFORM == images ]] && ! _is_running "$RUN-cas"; then
            "$DOCKER" logs "$RUN-cas" >&2
            fail "the CAS's container ended"
        elif [[ $PLATFORM == up ]] && ! kill -0 "$UP" 2>/dev/null; then
            cat "$WORK/up.log" >&2
            fail "crannog up ended" "see that ports 8081, 18765 and 18766 are free"
        elif ((SECONDS >= deadline)); then
            fail "no CAS answers at https://$CAS_API within $WAIT seconds" \
                "see that it runs, and that its address is reached from here and from containers"
        fi
        sleep 0.2
    done
    if [[ $PLATFORM == images ]] && ! _is_running "$RUN-las"; then
        "$DOCKER" logs "$RUN-las" >&2
        fail "the LAS's container ended"
    fi
}

_address_of() { "$DOCKER" inspect -f '{{.NetworkSettings.IPAddress}}' "$1"; }

_is_running() { [[ $("$DOCKER" inspect -f '{{.State.Running}}' "$1" 2>/dev/null) == true ]]; }

_host_address() { # this machine as containers of the engine's default network see it
    if ((${#AT_ONCE[@]})); then
        "$DOCKER" network inspect podman -f '{{range .Subnets}}{{.Gateway}}{{end}}'
    else
        "$DOCKER" network inspect bridge -f '{{(index .IPAM.Config 0).Gateway}}'
    fi
}
