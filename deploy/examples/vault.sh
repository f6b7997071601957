#!/bin/sh
# Fills a vault with what the examples mount. The script makes up every value. If you run it again, each secret gets a new revision.
#
#   sh deploy/examples/vault.sh VAULT IDENTITY        all secrets but one
#   sh deploy/examples/vault.sh VAULT IDENTITY late   the one that missing.yaml waits for
#
# VAULT is the vault's folder and IDENTITY the age identity file. The script makes them if they do not exist. KEYFERRY names the program
# (default: keyferry). The script needs openssl.
set -eu

if [ "$#" -lt 2 ] || [ "$#" -gt 3 ] || [ "${3:-late}" != late ]; then
    echo "usage: vault.sh VAULT IDENTITY [late]" >&2
    exit 2
fi
keyferry=${KEYFERRY:-keyferry}
vault=$1
identity=$2

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

set_secret() {
    "$keyferry" vault set --vault "$vault" --replace "$@"
}

# Values are in files, because every user of the machine can see arguments.
text() {
    printf '%s' "$2" >"$work/$1"
}

password() {
    openssl rand -hex 16 | tr -d '\n' >"$work/$1"
}

# openssl writes its progress to standard error. It is shown only if something fails.
quietly() {
    "$@" 2>"$work/progress" || {
        cat "$work/progress" >&2
        exit 1
    }
}

if [ "${3:-}" = late ]; then
    password token
    set_secret shop/late "token=@$work/token"
    exit 0
fi

"$keyferry" vault init --vault "$vault" --identity "$identity"

text username app
text host db.shop.svc
text port 5432
password db
set_secret shop/db "username=@$work/username" "password=@$work/db" "host=@$work/host" "port=@$work/port"

printf 'db.shop.svc:5432:shop:app:%s' "$(cat "$work/db")" >"$work/pgpass"
set_secret shop/pgpass "pgpass=@$work/pgpass"

password token
set_secret shop/api "token=@$work/token"

printf '{"db.host": "db.shop.svc", "db.port": 5432, "token": "%s\\n"}' "$(cat "$work/token")" >"$work/settings"
set_secret shop/settings "value=@$work/settings"

password basic
set_secret shop/basic-auth "username=@$work/username" "password=@$work/basic"

# A certificate for one day, with an ECDSA key, because the driver can sync that.
quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=shop.example -days 1 \
    -keyout "$work/tls.key" -out "$work/tls.crt"
set_secret shop/tls "tls.crt=@$work/tls.crt" "tls.key=@$work/tls.key" "ca.crt=@$work/tls.crt"

set_secret shop/certs/web "tls.crt=@$work/tls.crt" "tls.key=@$work/tls.key"
set_secret shop/certs/admin/api "tls.crt=@$work/tls.crt" "tls.key=@$work/tls.key"
password keystore
set_secret shop/keystore "password=@$work/keystore"

quietly openssl x509 -in "$work/tls.crt" -outform DER -out "$work/cert.der"
openssl base64 -A -in "$work/cert.der" -out "$work/cert.base64"
set_secret shop/binary "cert.der=@$work/cert.der" "cert-base64=@$work/cert.base64"

text odd odd
set_secret shop/odd-names "tls.crt=@$work/tls.crt" "ca-cert=@$work/tls.crt" \
    "UPPER_CASE=@$work/odd" "1st=@$work/odd" "_under=@$work/odd" ".hidden=@$work/odd"

quietly openssl genrsa -out "$work/ssh" 3072
printf 'git.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' >"$work/known_hosts"
set_secret shop/ssh "ssh-privatekey=@$work/ssh" "known_hosts=@$work/known_hosts"

password registry
login=$(printf 'robot:%s' "$(cat "$work/registry")" | openssl base64 -A)
printf '{"auths":{"registry.example":{"auth":"%s"}}}' "$login" >"$work/dockerconfigjson"
set_secret shop/registry ".dockerconfigjson=@$work/dockerconfigjson"
text robot robot
set_secret shop/registry-login "username=@$work/robot" "password=@$work/registry"

password git
set_secret shop/git "username=@$work/username" "password=@$work/git"

password kafka
set_secret shop/kafka "username=@$work/username" "password=@$work/kafka"

# Exactly 1 MiB.
openssl rand -out "$work/blob" 1048576
set_secret shop/large "blob=@$work/blob"
