#!/usr/bin/env bash
# Runs jobs/label.py as a Ray job: `deploy/demo.sh --concept car --stage preliminary`, arguments are the job's.
#
# With RAY_ADDRESS (or RAY_API_SERVER_ADDRESS) set, the job goes to that cluster, which is neither started nor stopped.
# Otherwise a local cluster is started for this one job, on free ports and with a token of its own, so that it meets no
# other cluster of this machine, and it alone is stopped at the end. Exit code: that of `ray job submit` (0 or 1).
# Needs `ray` and `python` of the project's environment first in PATH; `make demo` sees to it.
set -euo pipefail
cd "$(dirname "$0")/.."

START_SECONDS=90 # Ray needs about 10 on two cores
STOP_SECONDS=20

export RAY_USAGE_STATS_ENABLED=0
command -v ray >/dev/null || { echo "demo: there is no 'ray' in PATH. Run 'make demo', or activate the environment." >&2; exit 2; }

if [ -n "${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-}}" ]; then
    echo "Using the Ray cluster at ${RAY_API_SERVER_ADDRESS:-$RAY_ADDRESS}"
    exec ray job submit --working-dir . -- python jobs/label.py "$@"
fi

# --- a cluster of our own ---
umask 077
folder=$(mktemp -d /tmp/maskmine.XXXXXX) # short, because Ray puts Unix sockets below it
ray_pid=
job_pid=

# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
    code=$?
    trap - EXIT
    trap '' INT TERM # once is enough: what follows is bounded
    [ -z "$job_pid" ] || kill "$job_pid" 2>/dev/null || true
    if [ -n "$ray_pid" ]; then
        kill -TERM "$ray_pid" 2>/dev/null || true
        for ((i = 0; i < STOP_SECONDS * 5; i++)); do
            kill -0 -- "-$ray_pid" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL -- "-$ray_pid" 2>/dev/null || true
        wait "$ray_pid" 2>/dev/null || true
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
unset RAY_AUTH_TOKEN # would win over the file
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

read -r gcs dashboard agent client < <(python -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in sockets))')

echo "Starting a local Ray cluster for this job ..."
set -m # own process group: Ctrl-C reaches this script only, and Ray's reaper, which kills its whole group, nobody else
ray start --head --block --node-ip-address 127.0.0.1 --port "$gcs" --dashboard-host 127.0.0.1 \
    --dashboard-port "$dashboard" --dashboard-agent-listen-port "$agent" --ray-client-server-port "$client" \
    --object-store-memory 200000000 --temp-dir "$folder" --disable-usage-stats >"$folder/start.log" 2>&1 </dev/null &
ray_pid=$!
set +m

export RAY_ADDRESS=http://127.0.0.1:$dashboard RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
answers() {
    python - 2>/dev/null <<'PYTHON'
import os, urllib.request
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
request = urllib.request.Request(os.environ["RAY_ADDRESS"] + "/api/jobs/", headers={"Authorization": "Bearer " + token})
urllib.request.urlopen(request, timeout=5).read()
PYTHON
}
until answers; do
    if ! kill -0 "$ray_pid" 2>/dev/null || [ "$SECONDS" -ge "$START_SECONDS" ]; then
        echo "demo: the job server did not answer within $START_SECONDS s. The end of Ray's log:" >&2
        tail -n 30 "$folder/start.log" >&2
        exit 1
    fi
    sleep 0.3
done

# In the background, because bash runs traps while it waits but not while a foreground command runs.
ray job submit -- python jobs/label.py "$@" &
job_pid=$!
code=0
wait "$job_pid" || code=$?
job_pid=
exit "$code"
