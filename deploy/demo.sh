#!/usr/bin/env bash
# Runs a file of jobs/ as a Ray job: `deploy/demo.sh label --concept car --profile fast` submits `python jobs/label.py ...`.
#
# With RAY_ADDRESS (or RAY_API_SERVER_ADDRESS) set, the job goes to that cluster, which is neither started nor stopped.
# Otherwise a local cluster is started for this one job, on free ports and with a token of its own, so that it meets no
# other cluster of this machine, and it alone is stopped at the end. Exit code: that of `ray job submit` (0 or 1).
# Needs `ray` and `python` of the project's environment first in PATH; `make demo` sees to it.
# shellcheck disable=SC2317,SC2329 # functions called by a trap
set -euo pipefail
cd "$(dirname "$0")/.."

[ -f "jobs/${1:-}.py" ] || { echo "demo: there is no jobs/${1:-}.py. Usage: deploy/demo.sh JOB [OPTION ...]" >&2; exit 2; }
script=jobs/$1.py
shift

START_SECONDS=90 # Ray needs about 10 on two cores
STOP_SECONDS=20

export RAY_USAGE_STATS_ENABLED=0
command -v ray >/dev/null || { echo "demo: there is no 'ray' in PATH. Run 'make demo', or activate the environment." >&2; exit 2; }

if [ -n "${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-}}" ]; then
    echo "Using the Ray cluster at ${RAY_API_SERVER_ADDRESS:-$RAY_ADDRESS}"
    exec ray job submit --working-dir . -- python "$script" "$@"
fi

# --- a cluster of our own ---
folder=$(mktemp -d /tmp/maskmine.XXXXXX) # readable by this user only; short, because Ray puts Unix sockets below it
ray_pid=
submit_pid=

api() { # METHOD PATH: asks the job server of our cluster
    python - "$@" 2>/dev/null <<'PYTHON'
import os, sys, urllib.request
headers = {"Authorization": "Bearer " + open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()}
request = urllib.request.Request(os.environ["RAY_API_SERVER_ADDRESS"] + sys.argv[2], method=sys.argv[1], headers=headers)
print(urllib.request.urlopen(request, timeout=5).read().decode())
PYTHON
}

unfinished_jobs() {
    api GET /api/jobs/ | python -c '
import json, sys
print(*(j["submission_id"] for j in json.load(sys.stdin) if j["submission_id"] and j["status"] in ("PENDING", "RUNNING")))'
}

members() { # what our cluster started: the token's file, which no other process knows, is in the environment
    grep -lsz "^RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH$" /proc/[0-9]*/environ | cut -d/ -f3 || true
}

stop() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP # once is enough: what follows is bounded
    if [ -n "$submit_pid" ]; then # interrupted: Ray would leave the job's own process behind
        kill "$submit_pid" 2>/dev/null || true
        for ((i = 0; i < 10; i++)); do
            jobs=$(unfinished_jobs) && [ -n "$jobs" ] || break
            for job in $jobs; do api POST "/api/jobs/$job/stop" >/dev/null || true; done
            sleep 0.5
        done
    fi
    if [ -n "$ray_pid" ]; then
        kill -TERM "$ray_pid" 2>/dev/null || true
        for ((i = 0; i < STOP_SECONDS * 5; i++)); do
            kill -0 "$ray_pid" 2>/dev/null || break
            sleep 0.2
        done
        # shellcheck disable=SC2046 # a list of numbers
        kill -KILL $(members) 2>/dev/null || true
    fi
    if [ "$code" -eq 0 ] || [ "$code" -ge 128 ]; then
        rm -rf "$folder"
    else
        echo "demo: failed; Ray's logs are kept in $folder" >&2
    fi
    exit "$code"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

export no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}" NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nobody to drain for; the default waits 30 s
unset RAY_AUTH_TOKEN # would win over the file
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

echo "Starting a local Ray cluster for this job ..."
# All ports are free ones, and given: for those it has to find, Ray waits 15 s only, too short on a busy machine.
read -r gcs dashboard agent metrics_agent metrics runtime_env client < <(python -c '
import socket
sockets = [socket.create_server(("", 0)) for _ in range(7)]
print(*(s.getsockname()[1] for s in sockets))')
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard

set -m # own process group: Ctrl-C reaches this script alone, and Ray's reaper, which kills its whole group, Ray alone
ray start --head --block --port "$gcs" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
    --dashboard-agent-listen-port "$agent" --dashboard-agent-grpc-port "$metrics_agent" \
    --metrics-export-port "$metrics" --runtime-env-agent-port "$runtime_env" --ray-client-server-port "$client" \
    --object-store-memory 200000000 --temp-dir "$folder" >"$folder/start.log" 2>&1 </dev/null &
ray_pid=$!
set +m

# The file comes when the node is up; the job server answers a little earlier.
until [ -f "$folder/ray_current_cluster" ] && api GET /api/jobs/ >/dev/null; do
    if ! kill -0 "$ray_pid" 2>/dev/null || [ "$SECONDS" -ge "$START_SECONDS" ]; then
        echo "demo: Ray did not start within $START_SECONDS s. The end of its log:" >&2
        tail -n 30 "$folder/start.log" >&2
        exit 1
    fi
    sleep 0.3
done

# In the background, because bash runs traps while it waits but not while a foreground command runs.
ray job submit -- python "$script" "$@" &
submit_pid=$!
code=0
wait "$submit_pid" || code=$?
submit_pid=
exit "$code"
