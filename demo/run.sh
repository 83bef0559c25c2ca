#!/usr/bin/env bash
# The way of an event from a file to a reconstruction and back, on this machine: starts a server
# with the shipped model, sends it the shipped events over gRPC, draws one of them, stops the
# server. Called by `make demo`; takes the folder of a virtual environment as its argument.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

xec=${1:?usage: demo/run.sh VIRTUAL_ENVIRONMENT}/bin/xec
events=samples/synthetic.root
output=demo-output
results=$output/events.parquet
picture=$output/event.png
log=$output/server.log
server=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

stop_if_left() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
}
trap stop_if_left EXIT

await_server() {
    local tenths
    for ((tenths = 0; tenths < 600; tenths++)); do
        [[ -s $ready ]] && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$log" >&2
    fail "the server did not become ready; its last lines are above."
}

stop_server() {
    local status=0
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    ((status == 0)) || fail "the server ended with exit code $status; see $log."
}

[[ -f $events ]] || fail "$events is missing: clone the repository again."
mkdir -p "$output"
ready=$output/server.address
rm -f "$ready" "$results" "$picture"

say "1. A server with the shipped model"
"$xec" serve --listen 127.0.0.1:0 --ready-file "$ready" >"$log" 2>&1 &
server=$!
await_server
address=$(<"$ready")
printf 'listens on %s, writes %s\n' "$address" "$log"

say "2. The events of $events, reconstructed over gRPC"
"$xec" reconstruct "$events" --server "$address" --out "$results" --show 5

say "3. The server stops"
stop_server
printf 'exit code 0\n'

say "4. A picture of the fifth event"
"$xec" display "$events" --entry 4 --results "$results" --out "$picture"

for file in "$results" "$picture"; do
    [[ -s $file ]] || fail "$file was not written."
done
printf '\nResults: %s\nPicture: %s\n' "$results" "$picture"
