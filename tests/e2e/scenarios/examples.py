"""Every example of the file vault: its Pod gets ready, its files are those of its first lines, synced Secrets come and go.
"""

import base64
import re
import subprocess

from cluster import EXAMPLES, Failed, same

SHORT = True
NEEDS_NODE = False
ORDER = 10

# Other scenarios show these: they wait for something, or need another overlay.
ELSEWHERE = {"keyferry", "namespace", "missing", "owner"}
# The examples of other stores.
OTHERS = ("openbao-", "aws")

# Each synced Secret: its type, and the vault's fields for its keys.
SYNCED = {
    "env": ("db-env", "Opaque", {"DB_USER": ("shop/db", "username"), "DB_PASSWORD": ("shop/db", "password")}),
    "tls": ("shop-tls", "kubernetes.io/tls", {"tls.crt": ("shop/tls", "tls.crt"), "tls.key": ("shop/tls", "tls.key")}),
    "basic-auth": ("shop-basic-auth", "kubernetes.io/basic-auth", {"username": ("shop/basic-auth", "username"), "password": ("shop/basic-auth", "password")}),
    "ssh": ("shop-ssh", "kubernetes.io/ssh-auth", {"ssh-privatekey": ("shop/ssh", "ssh-privatekey")}),
    "image-pull": ("registry-login", "kubernetes.io/dockerconfigjson", {".dockerconfigjson": ("shop/registry", ".dockerconfigjson")}),
}


def run(cluster):
    cluster.bash("sh deploy/examples/vault.sh ./vault ./age.key >/dev/null")
    cluster.bring_vault()
    # A vault in Secrets has no room for a secret of 1 MiB.
    elsewhere = ELSEWHERE if cluster.node else ELSEWHERE | {"large"}
    files = sorted(path for path in EXAMPLES.glob("*.yaml") if path.stem not in elsewhere and not path.stem.startswith(OTHERS))
    cluster.apply(EXAMPLES / "namespace.yaml", *files)
    names = [path.stem for path in files]
    cluster.ready("shop", *names, seconds=120)
    for path in files:
        has_its_files(cluster, path)
    binary_values_are_whole(cluster)
    the_other_container_sees_nothing(cluster)
    same(cluster.kubectl("-n", "shop", "logs", "env").split().count("DB_PASSWORD"), 1, "the variable DB_PASSWORD in the Pod env")
    for example, (name, kind, keys) in SYNCED.items():
        is_synced(cluster, name, kind, keys)
    cluster.delete("shop", *(f"pod/{name}" for name in names))
    for name, _, _ in SYNCED.values():
        cluster.until(f"the Secret {name} goes with its last Pod", lambda name=name: cluster.get("secret", name, "shop") is None, 60)
    cluster.remark(f"{len(names)} examples, {len(SYNCED)} types of Secrets")


def has_its_files(cluster, path):
    """The first lines of an example name its files, some with a mode. `...` is any file of a folder; `only once` is not there yet."""
    promised, folders, absent = {}, [], set()
    for line in path.read_text().splitlines():
        if not line.startswith("#   /secrets/"):
            continue
        for name, mode in re.findall(r"/secrets/(\S+)(?:\s+(0[0-7]{3})\b)?", line):
            if name.endswith("/..."):
                folders.append(name.removesuffix("..."))
            elif "only once" in line:
                absent.add(name)
            else:
                promised[name] = mode
    seen = cluster.files("shop", path.stem)
    for name, mode in promised.items():
        if name not in seen:
            raise Failed(f"{path.name}: promises /secrets/{name}, the container has {sorted(seen)}")
        if mode:
            same(seen[name][0], mode, f"{path.name}: the mode of /secrets/{name}")
        same(seen[name][1], "0:0", f"{path.name}: the owner of /secrets/{name}")
    for name in seen:
        if promised and name not in promised and not any(name.startswith(folder) for folder in folders):
            raise Failed(f"{path.name}: does not promise /secrets/{name}")
        if name in absent:
            raise Failed(f"{path.name}: /secrets/{name} is there, and its secret is not")
    if not seen:
        raise Failed(f"{path.name}: the container has no files")


def binary_values_are_whole(cluster):
    vault = base64.b64encode(field(cluster, "shop/binary", "cert.der")).decode()
    for name in ["cert.der", "from-base64.der"]:
        seen = cluster.inside("shop", "binary-values", "base64", f"/secrets/{name}")
        same("".join(seen.split()), vault, f"the bytes of {name}")


def the_other_container_sees_nothing(cluster):
    listed = cluster.inside("shop", "one-container", "sh", "-c", "ls /secrets 2>&1; true", container="does-not")
    if "No such file" not in listed:
        raise Failed(f"the container `does-not` has a /secrets: {listed}")


def is_synced(cluster, name, kind, keys):
    secret = cluster.until(f"the Secret {name}", lambda: cluster.get("secret", name, "shop"))
    same(secret["type"], kind, f"the type of {name}")
    same(set(secret["data"]), set(keys), f"the keys of {name}")
    for key, (vault_name, vault_field) in keys.items():
        # The driver writes PEM again: the same certificate and key, perhaps another frame.
        if kind != "kubernetes.io/tls":
            same(base64.b64decode(secret["data"][key]), field(cluster, vault_name, vault_field), f"{name}: {key}")


def field(cluster, name, field):
    return subprocess.run([cluster.keyferry_path, "vault", "get", "--vault", cluster.vault, "--identity", cluster.identity, "--field", field, name],
                          check=True, capture_output=True).stdout
