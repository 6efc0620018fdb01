#!/usr/bin/env bash
# The programs of Debian that some tests start: an OpenSSH server, a browser, `ip` for a second network. As root where
# apt-get is; elsewhere, and without a network, those tests are skipped with the reason.
set -euo pipefail
wanted=()
command -v sshd > /dev/null || [[ -x /usr/sbin/sshd ]] || wanted+=(openssh-server)
command -v ssh > /dev/null || wanted+=(openssh-client)
command -v chromium > /dev/null || wanted+=(chromium)
command -v ip > /dev/null || wanted+=(iproute2)
((${#wanted[@]})) || exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    echo "tests that need ${wanted[*]} will be skipped: they are not here"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${wanted[@]}"; } > /dev/null \
    || echo "tests that need ${wanted[*]} may be skipped: apt-get could not install all of them"
