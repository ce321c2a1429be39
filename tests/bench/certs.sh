#!/bin/sh
# Make the test PKI once: a P-256 CA and X.509-SVIDs with one SPIFFE URI SAN each.
# usage: certs.sh DIR
set -eu
dir=$1
mkdir -p "$dir"
cd "$dir"
[ -s done ] && exit 0
TD=cluster.local
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days 365 -subj "/CN=bench root" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -addext "subjectAltName=URI:spiffe://$TD" -out ca.pem
svid() { # name, extra SAN
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$1.bench.internal" -out "$1.csr"
  printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth,clientAuth" \
    "subjectAltName=URI:spiffe://$TD/ns/bench/sa/$1,DNS:$1.bench.internal" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -sha256 \
    -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  cat "$1.pem" "$1.key" > "$1.bundle.pem"
}
svid client
svid server
svid intruder
# A key that signs JWTs (ES256).
openssl ecparam -name prime256v1 -genkey -noout -out jwt.key
openssl pkcs8 -topk8 -nocrypt -in jwt.key -outform DER -out jwt.pk8
openssl ec -in jwt.key -pubout -out jwt.pub.pem 2>/dev/null
openssl ec -in jwt.key -pubout -outform DER -out jwt.pub.der 2>/dev/null
chmod 644 ./*
date > done
