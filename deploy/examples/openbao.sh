#!/bin/sh
# Sets up an OpenBao server with what the openbao examples mount. The script makes up the values. Run it once, on a server for trials.
#
#   bao auth enable kubernetes
#   bao write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc
#   sh deploy/examples/openbao.sh                            secrets, certificates, and who may have them
#   sh deploy/examples/openbao.sh HOST:PORT PASSWORD-FILE    also database logins: the file has the password of this PostgreSQL's user postgres
#
# BAO_ADDR, BAO_CACERT and BAO_TOKEN name the server and the login, as for every command of bao. BAO names the program (default: bao).
set -eu

if [ "$#" -ne 0 ] && [ "$#" -ne 2 ]; then
    echo "usage: openbao.sh [HOST:PORT PASSWORD-FILE]" >&2
    exit 2
fi
bao=${BAO:-bao}

"$bao" secrets enable -path=kv -version=2 kv
# A new engine of KV version 2 is ready after a moment.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if "$bao" read kv/config >/dev/null 2>&1; then break; fi
    sleep 0.2
done
openssl rand -hex 16 | tr -d '\n' | "$bao" kv put -mount=kv shop/db username=app password=-

"$bao" secrets enable pki
"$bao" write pki/root/generate/internal common_name="the examples' CA" key_type=ec ttl=720h >/dev/null
"$bao" write pki/roles/shop allowed_domains=shop.svc allow_subdomains=true key_type=ec max_ttl=72h

if [ "$#" -eq 2 ]; then
    "$bao" secrets enable database
    "$bao" write database/config/postgres plugin_name=postgresql-database-plugin allowed_roles=shop \
        connection_url="postgresql://{{username}}:{{password}}@$1/postgres?sslmode=prefer" username=postgres password=@"$2"
    "$bao" write database/roles/shop db_name=postgres default_ttl=1h max_ttl=24h \
        creation_statements="CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
fi

# What the ServiceAccount web of the namespace shop may have. Keyferry asks its own policy first.
"$bao" policy write shop - <<'END'
path "kv/data/shop/*" { capabilities = ["read"] }
path "database/creds/shop" { capabilities = ["read"] }
path "pki/issue/shop" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
END
"$bao" write auth/kubernetes/role/csi bound_service_account_names=web bound_service_account_namespaces=shop audience=bao \
    token_policies=shop token_ttl=1h
