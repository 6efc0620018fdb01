#!/usr/bin/env bash
# Run the tests: all that need no network inside an empty network namespace, then those marked `network` outside it.
# Arguments go to pytest, as in: tools/test.sh tests/sdk -x
set -euo pipefail
cd "$(dirname "$0")/.."
python="${AVSDK_PYTHON:-.venv/bin/python}"
export ORT_DISABLE_TELEMETRY=1

isolated=()
if unshare -rmn true 2> /dev/null; then  # with mounts of its own, so that tests can fill a small disk
    isolated=(unshare -rmn)
elif unshare -n true 2> /dev/null; then
    isolated=(unshare -n)
fi
if ((${#isolated[@]})); then
    echo "tests without network: in an empty network namespace (${isolated[*]})"
else
    echo "tests without network: this machine gives no network namespace, so nothing stops a test from using the network"
fi

# The loopback device is this machine, not a network; it starts switched off in a new namespace.
# `exec` keeps the exit status; pytest's 5 means that no test was chosen, which is fine for either half.
run() { local status=0; "$@" || status=$?; ((status == 5)) && status=0; return "$status"; }
run "${isolated[@]}" bash -c 'ip link set lo up 2> /dev/null || true; exec "$@"' _ \
    "$python" -m pytest -m "not network" "$@"
echo "tests that install a toolchain or start an OpenSSH server: with network"
run "$python" -m pytest -m network "$@"
