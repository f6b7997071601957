"""Each overlay of deploy/manifests serves a Pod, with the rights that docs/install.md names and no others; then all of it is uninstalled.
"""

import os
import re
from pathlib import Path

import node as nodes
import stores
import tools
from cluster import EXAMPLES, OVERLAYS, Failed, daemon_pids, pod, same, secret_provider_class
from setup import follow

SHORT = True
# It changes the daemon many times, and removes it at the end: so it has a node of its own, and is the last on it.
LANE = "overlays"
ORDER = 90

NOBODY_ELSE = "system:serviceaccount:keyferry:somebody"
KEYFERRY = "system:serviceaccount:keyferry:keyferry"

# Rights beyond those of every ServiceAccount: as `kubectl auth can-i --list` shows them, and as the table of docs/install.md calls them.
RIGHTS = {
    "jwks-in-cluster": (
        {"[/.well-known/openid-configuration/] [] [get]", "[/.well-known/openid-configuration] [] [get]",
         "[/openid/v1/jwks/] [] [get]", "[/openid/v1/jwks] [] [get]"},
        "the ClusterRole `system:service-account-issuer-discovery`",
    ),
    "token-review": ({"tokenreviews.authentication.k8s.io [] [] [create]"}, "`create` on `tokenreviews`"),
}

# Of /proc/PID/status: CAP_CHOWN is bit 0, CAP_DAC_READ_SEARCH is bit 2.
CAPABILITIES = {"provider-delivery": (0b101, "the capabilities `CHOWN` and `DAC_READ_SEARCH`")}
MEMORY = {"provider-delivery": (512, "512 MiB")}
OWN_TOKEN = Path("var/run/secrets/kubernetes.io/serviceaccount/token")


def run(cluster):
    cluster.namespace("shop")
    # Every ServiceAccount has this by default. If an admin has removed it, the overlay must have it.
    cluster.kubectl("delete", "--ignore-not-found", "clusterrolebinding", "system:service-account-issuer-discovery")
    everybodys = {namespace: rights(cluster, NOBODY_ELSE, namespace) for namespace in ["keyferry", "kube-system"]}
    has_what_the_page_says(cluster, None, everybodys)
    tried = []
    for overlay, tries in [("vault-in-secrets", vault_in_secrets), ("provider-delivery", provider_delivery), ("jwks-in-cluster", jwks_in_cluster),
                           ("token-review", token_review), ("openbao", openbao), ("aws", aws)]:
        tries(cluster)
        has_what_the_page_says(cluster, overlay, everybodys)
        leave(cluster, overlay)
        tried.append(overlay)
    same(sorted(tried), OVERLAYS, "the overlays that were tried")
    cluster.install()
    serves(cluster, "base")
    uninstall(cluster)


# === The overlays ===


def vault_in_secrets(cluster):
    """As section 5 says. The nodes' own vault does not get what this one has."""
    value = set_in_the_vault(cluster, "first")
    follow(cluster, "install.md", "5.", "No way to write to nodes?", skip=["--dry-run"])
    cluster.install("vault-in-secrets")
    starts(cluster, "vault-in-secrets", value)
    value = set_in_the_vault(cluster, "second")
    follow(cluster, "install.md", "5.", "No way to write to nodes?", skip=[".recipients"])
    changes(cluster, "vault-in-secrets", value)


def provider_delivery(cluster):
    cluster.bash("sh deploy/examples/vault.sh ./vault ./age.key >/dev/null")
    cluster.bring_vault()
    cluster.install("provider-delivery")
    cluster.apply(EXAMPLES / "owner.yaml")
    value = serves(cluster, "provider-delivery")
    cluster.ready("shop", "owner")
    seen = {name: (mode, owner) for name, (mode, owner, _) in cluster.files("shop", "owner").items()}
    same(seen, promised_files(), "the files of owner.yaml, with modes and owners")
    if "PRIVATE KEY" not in cluster.read("shop", "owner", "/secrets/server.key"):
        raise Failed("owner.yaml: the container cannot read the key that it owns")
    changed = value + ", changed"
    cluster.set_secret("shop/overlay", value=changed)
    changes(cluster, "provider-delivery", changed)


def promised_files():
    """Each file of owner.yaml's first lines, with its mode and owner."""
    lines = re.findall(r"^#   /secrets/(\S+) +(\d{4})  (\S+)$", (EXAMPLES / "owner.yaml").read_text(), re.M)
    return {name: (mode, owner if ":" in owner else "0:0") for name, mode, owner in lines}


def jwks_in_cluster(cluster):
    """No ConfigMap has the keys, and no former daemon has left any: they can only come from the API server."""
    cluster.kubectl("-n", "keyferry", "delete", "configmap", "keyferry-jwks")
    kept = nodes.STATE / "jwks.state"
    kept.unlink(missing_ok=True)
    cluster.install("jwks-in-cluster")
    serves(cluster, "jwks-in-cluster")
    same(oct(kept.stat().st_mode & 0o777), "0o600", "the mode of jwks.state")
    kept.unlink()


def token_review(cluster):
    """Each Pod's start is a question to the API server, as the API server itself counts them."""
    cluster.install("token-review")
    before = reviews(cluster)
    serves(cluster, "token-review")
    if reviews(cluster) == before:
        raise Failed("a Pod was served, and the API server was asked to review no token")
    cluster.kubectl("-n", "keyferry", "create", "configmap", "keyferry-jwks", "--from-file", cluster.folder / "jwks.json")


def reviews(cluster):
    text = cluster.kubectl("get", "--raw", "/metrics")
    return sum(float(count) for count in re.findall(r'^apiserver_request_total\{[^}]*resource="tokenreviews"[^}]*\} (\S+)$', text, re.M))


def openbao(cluster):
    """As docs/install.md says in "OpenBao or Vault". openbao.py has the rest of it."""
    bao = stores.OpenBao(cluster)
    bao.start()
    stores.install(cluster, bao)
    same(set(cluster.files("shop", "openbao-static")), {"username", "password", "first-password"}, "the files of openbao-static.yaml")
    same(cluster.read("shop", "openbao-static", "/secrets/password"), bao.bao("kv", "get", "-mount=kv", "-field=password", "shop/db").strip(),
         "the file of the store's secret")
    pods = mount_options(the_daemon(), "/var/lib/kubelet/pods")
    same("ro" in pods, True, f"kubelet's folder of Pods is read-only ({pods})")
    cluster.delete("shop", "pod/openbao-static", "--wait=false")
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "--patch-file",
                    tools.REPOSITORY / "deploy/manifests/driver/token-requests.yaml")


def aws(cluster):
    """As docs/install.md says in "AWS". aws.py has the rest of it."""
    moto = stores.Moto(cluster)
    moto.start()
    moto.secret("shop/db", "by AWS")
    stores.install_aws(cluster, moto)
    cluster.apply(secret_provider_class("aws", "shop", "- secret: secretsmanager/shop/db\n  path: value\n"), pod("aws", "shop", "aws"))
    cluster.ready("shop", "aws")
    same(cluster.read("shop", "aws", "/secrets/value"), "by AWS", "the file of AWS's secret")
    same("ro" in mount_options(the_daemon(), "/var/lib/kubelet/pods"), True, "kubelet's folder of Pods is read-only")
    cluster.delete("shop", "pod/aws", "--wait=false")
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "--patch-file",
                    tools.REPOSITORY / "deploy/manifests/driver/token-requests.yaml")


def serves(cluster, overlay):
    """A secret set now is in the file of a new Pod. Returns its value."""
    value = f"by {overlay}"
    cluster.set_secret("shop/overlay", value=value)
    starts(cluster, overlay, value)
    return value


def starts(cluster, name, value):
    cluster.apply(secret_provider_class(name, "shop", "- secret: shop/overlay\n  field: value\n"), pod(name, "shop", name))
    cluster.ready("shop", name)
    same(cluster.read("shop", name, "/secrets/value"), value, f"{name}: the file")
    # The first mount's line: a driver before 1.6.0 does not name the class when it rotates.
    line = cluster.audit("shop", name)[0]
    same((line["outcome"], line["verified"], line["serviceAccount"], line["class"]), ("delivered", True, "web", name), f"{name}: the audit line")


def changes(cluster, name, value):
    """A changed secret reaches the running Pod. We make kubelet look at once: rotation.py shows how long it takes by itself."""
    def changed():
        for daemon in cluster.daemons():
            cluster.look_again("keyferry", daemon["metadata"]["name"])
        cluster.look_again("shop", name)
        return cluster.read("shop", name, "/secrets/value") == value

    cluster.until(f"{name}: the file changes", changed, 240, every=2)


def set_in_the_vault(cluster, value):
    """Sets it in the admin's vault alone; nothing is brought to the node."""
    (cluster.folder / "value").write_text(value)
    cluster.bash("keyferry vault set --replace --vault ./vault shop/overlay value=@value")
    return value


# === What the daemon may do ===


def has_what_the_page_says(cluster, overlay, everybodys):
    """Rights in the cluster, beyond every ServiceAccount's, and on the node: as they are, and as the row of docs/install.md's table has them."""
    row = table_row(overlay) if overlay else "nothing"
    name = overlay or "base"
    for namespace, rights_of_all in everybodys.items():
        beyond = rights(cluster, KEYFERRY, namespace) - rights_of_all
        same(beyond, RIGHTS.get(name, (set(), ""))[0], f"{name}: what `kubectl auth can-i --list -n {namespace}` shows beyond every ServiceAccount's")
    daemon = the_daemon()
    same(capabilities(daemon), CAPABILITIES.get(name, (0, ""))[0], f"{name}: the daemon's capabilities")
    same((Path(f"/proc/{daemon}/root") / OWN_TOKEN).exists(), "a token" in row, f"{name}: whether the daemon has a token of its own")
    same(memory_limit(daemon), MEMORY.get(name, (256, ""))[0], f"{name}: the memory limit, in MiB")
    for promises in [RIGHTS, CAPABILITIES, MEMORY]:
        words = promises.get(name, (None, ""))[1]
        if words not in row:
            raise Failed(f"{name}: docs/install.md's table does not say {words!r}, but {row!r}")


def table_row(overlay):
    """What an overlay asks for: the last cell of its row."""
    page = (tools.REPOSITORY / "docs/install.md").read_text()
    return re.search(rf"^\| `overlays/{overlay}` \|.*\| (.*) \|$", page, re.M)[1]


def rights(cluster, user, namespace):
    listed = cluster.kubectl("auth", "can-i", "--list", "--as", user, "-n", namespace, "--no-headers")
    return {" ".join(line.split()) for line in listed.splitlines()}


def the_daemon():
    pids = daemon_pids()
    if len(pids) != 1:
        raise Failed(f"one daemon should run on the node; these do: {pids}")
    return pids[0]


def capabilities(process):
    status = Path(f"/proc/{process}/status").read_text()
    held = {int(value, 16) for value in re.findall(r"^Cap(?:Prm|Eff|Bnd):\s*(\S+)", status, re.M)}
    if len(held) != 1:
        raise Failed(f"permitted, effective and bounding capabilities differ: {held}")
    return held.pop()


def memory_limit(process):
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        file = nodes.CGROUPS / path.strip("/") / "memory.max" if not controllers else nodes.CGROUPS / "memory" / path.strip("/") / "memory.limit_in_bytes"
        if controllers in ["", "memory"] and file.exists():
            return int(file.read_text()) >> 20
    raise Failed(f"no memory limit found for the process {process}")


def mount_options(process, path):
    for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == path:
            return fields[5].split(",")
    raise Failed(f"nothing is mounted at {path} in the daemon's container")


# === The way out ===


def leave(cluster, overlay):
    """Removes what the overlay has in addition to the base, as docs/install.md says, before the next overlay."""
    cluster.delete("shop", f"pod/{overlay}", "pod/owner", "--wait=false")
    if overlay in RIGHTS:
        follow(cluster, "install.md", "Other ways", "From one overlay to another", replaced={"token-review": overlay})


def uninstall(cluster):
    follow(cluster, "install.md", "Uninstall", "With kustomize")
    same(cluster.get("namespace", "keyferry"), None, "the namespace after `kubectl delete -k`")
    left = [f"{kind}/{item['metadata']['name']}" for kind in ["clusterroles", "clusterrolebindings", "priorityclasses"]
            for item in cluster.get(kind) if "keyferry" in item["metadata"]["name"]]
    same(left, [], "objects of the cluster after `kubectl delete -k`")
    cluster.until("the daemon's process ends", lambda: not daemon_pids(), 30)
    same(os.listdir(nodes.PROVIDERS), [], "the sockets' folder: the socket goes with the daemon")
    same(cluster.read("shop", "base", "/secrets/value"), "by base", "the file of a running Pod without a provider")
    same((nodes.STATE / "vault/.recipients").exists(), True, "the vault is still on the node")
    cluster.bash(re.search(r"`(rm -r [^`]*)`", (tools.REPOSITORY / "docs/install.md").read_text())[1])
    same(nodes.STATE.exists(), False, "the state folder after the page's rm")
