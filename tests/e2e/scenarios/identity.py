"""Who a Pod is: tokens in either field, keys from a file and from the cluster, reviews by the API server, and Pods that pretend to be another.
"""

import base64
import json
import subprocess

import node as nodes
import tools
from cluster import MANIFESTS, daemon_pids, failed_mount, pod, same, secret_provider_class, volume
from page import message
from setup import follow

# It changes the daemon and the CSIDriver object: on the node whose daemon changes anyway, before overlays.py removes it.
LANE = "overlays"
ORDER = 80

DRIVER = "secrets-store.csi.k8s.io"
KUBELETS = "csi.storage.k8s.io"
TOKENS = f"{KUBELETS}/serviceAccount.tokens"


def run(cluster):
    for namespace in ["who", "thief"]:
        cluster.namespace(namespace)
        cluster.set_secret(f"{namespace}/note", text=f"of {namespace}")
    starts(cluster, "victim")
    tokens_in_either_field(cluster)
    pretenders(cluster)
    without_our_audience(cluster)
    keys_from_a_file(cluster)
    keys_from_the_cluster(cluster)
    reviews(cluster)
    cluster.install()
    for namespace in ["who", "thief"]:
        cluster.drop_namespace(namespace)


# === What kubelet sends ===


def tokens_in_either_field(cluster):
    """`serviceAccountTokenInSecrets` says which field the tokens come in, as the recorder sees it. Keyferry takes both."""
    record = cluster.node.start_recorder()
    ask_driver(cluster, serviceAccountTokenInSecrets=True)
    if cluster.get("csidriver", DRIVER)["spec"].get("serviceAccountTokenInSecrets"):
        starts(cluster, "in-secrets")
        same("secrets" in fields_with_tokens(cluster, record, "seen-in-secrets"), True, "with serviceAccountTokenInSecrets: tokens come in `secrets`")
    else:
        cluster.remark("this Kubernetes has no serviceAccountTokenInSecrets")
    ask_driver(cluster, serviceAccountTokenInSecrets=False)
    starts(cluster, "in-attributes")
    same(fields_with_tokens(cluster, record, "seen-in-attributes"), {"attributes"}, "without serviceAccountTokenInSecrets: where tokens come")
    # As shipped, the field is not set: with any value it would need tokenRequests.
    ask_driver(cluster, serviceAccountTokenInSecrets=None)
    cluster.node.stop("recorder")
    (nodes.PROVIDERS / "recorder.sock").unlink()


def fields_with_tokens(cluster, record, name):
    """Which fields of a request had tokens, for a Pod whose class is the recorder's."""
    cluster.apply(secret_provider_class(name, "who", "", provider="recorder"), pod(name, "who", name))
    cluster.ready("who", name)
    cluster.delete("who", f"pod/{name}", "--wait=false")
    calls = [json.loads(line) for line in record.read_text().splitlines()]
    request = next(call["shape"]["request"] for call in calls if call.get("pod") == f"who/{name}")
    return {field for field in ["attributes", "secrets"] if TOKENS in (request[field] or {})}


def ask_driver(cluster, **spec):
    cluster.kubectl("patch", "csidriver", DRIVER, "--type=merge", "-p", json.dumps({"spec": spec}))


def as_shipped(cluster):
    cluster.kubectl("patch", "csidriver", DRIVER, "--type=merge", "--patch-file", tools.REPOSITORY / "deploy/manifests/driver/token-requests.yaml")


# === Another's name ===


def pretenders(cluster):
    """A class, and a volume's attributes, that claim to be the Pod who/victim, with a token of that very Pod. kubelet's own keys win: Keyferry denies that
    Pod's secrets, and delivers their own."""
    stolen = keys_of_the_victim(cluster)
    cluster.apply(
        secret_provider_class("pretends", "thief", "- secret: who/note\n  field: text\n", **stolen),
        pod("pretends", "thief", "pretends"),
        secret_provider_class("honest", "thief", "- secret: who/note\n  field: text\n"),
        pod("pretends-itself", "thief", "honest", volumes=[volume("secrets", "honest", **stolen)]),
        secret_provider_class("own", "thief", "- secret: thief/note\n  field: text\n", **stolen),
        pod("own", "thief", "own"),
    )
    for name in ["pretends", "pretends-itself"]:
        denied(cluster, name)
    cluster.ready("thief", "own")
    same(cluster.read("thief", "own", "/secrets/text"), "of thief", "the file of a Pod that pretends to be another, and asks for its own")
    line = cluster.audit("thief", "own")[-1]
    same((line["uid"], line["serviceAccount"], line["verified"]), (uid(cluster, "thief", "own"), "web", True), "who the audit line says it was")
    same([line["namespace"] for line in cluster.audit("who", "victim")].count("thief"), 0, "mounts of the thief in the victim's name")


def denied(cluster, name):
    event = cluster.waits_with("thief", name, "PolicyDenied")
    same(event, failed_mount("PermissionDenied", "thief", name, "PolicyDenied: object 1 (text): files/who/note: no rule of the policy allows ServiceAccount "
                             'thief/web to read it (the cluster\'s admin can add a rule with read: ["files/who/note"])'), "the event")


def keys_of_the_victim(cluster):
    bound = ["--bound-object-kind=Pod", "--bound-object-name=victim", f"--bound-object-uid={uid(cluster, 'who', 'victim')}"]
    token = cluster.kubectl("-n", "who", "create", "token", "web", "--audience=keyferry", *bound).strip()
    return {
        f"{KUBELETS}/pod.namespace": "who",
        f"{KUBELETS}/pod.name": "victim",
        f"{KUBELETS}/pod.uid": uid(cluster, "who", "victim"),
        f"{KUBELETS}/serviceAccount.name": "web",
        TOKENS: json.dumps({"keyferry": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
    }


def without_our_audience(cluster):
    """The CSIDriver object asks for no token, then for another's. Now kubelet does not overwrite a token of another Pod: Keyferry must refuse it."""
    cluster.delete("thief", "pod/pretends", "pod/pretends-itself")
    ask_driver(cluster, tokenRequests=[])
    applies(cluster, "no-token")
    waits(cluster, "no-token", message("IdentityUnverified", "the driver sent none"))
    cluster.apply(pod("pretends", "thief", "pretends"))
    cluster.waits_with("thief", "pretends", "IdentityUnverified")
    same(cluster.events("thief", "pretends")[-1], failed_mount("Unauthenticated", "thief", "pretends",
         'IdentityUnverified: namespace: the token is that of a Pod in the namespace "who", but the mount is for "thief" (remove '
         f"{TOKENS} from the class's parameters and the volume's attributes: kubelet sends the Pod's own token)"), "the event")
    ask_driver(cluster, tokenRequests=[{"audience": "vault"}])
    applies(cluster, "another-audience")
    waits(cluster, "another-audience", message("IdentityUnverified", "the driver sent tokens for"))
    as_shipped(cluster)
    cluster.ready("who", "no-token", "another-audience", seconds=130)
    denied(cluster, "pretends")


# === Where the keys come from ===


def keys_from_a_file(cluster):
    """The file has another cluster's key, as after a move, or before somebody brought a new signing key. Then we do what the page says."""
    (cluster.folder / "other.json").write_text(json.dumps({"keys": [a_key("another-cluster")]}))
    made = cluster.kubectl("-n", "keyferry", "create", "configmap", "keyferry-jwks", f"--from-file=jwks.json={cluster.folder / 'other.json'}",
                           "--dry-run=client", "-o", "yaml")
    cluster.apply(made)
    bring_to_the_daemon(cluster, '"another-cluster"')
    applies(cluster, "unknown-key")
    kid = json.loads((cluster.folder / "jwks.json").read_text())["keys"][0]["kid"]
    waits(cluster, "unknown-key", message("IdentityUnverified", "which is not in", {'"k2"': f'"{kid}"', '"k1"': '"another-cluster"'}))
    follow(cluster, "install.md", "Other ways")
    bring_to_the_daemon(cluster, kid)
    cluster.ready("who", "unknown-key", seconds=130)


def a_key(kid):
    """A public key that nobody signs with."""
    private = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True).stdout
    modulus = subprocess.run(["openssl", "rsa", "-noout", "-modulus"], input=private, check=True, capture_output=True).stdout
    number = bytes.fromhex(modulus.decode().strip().removeprefix("Modulus="))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "e": "AQAB", "n": base64.urlsafe_b64encode(number).decode().rstrip("=")}


def bring_to_the_daemon(cluster, text):
    """Waits until kubelet has brought a changed ConfigMap into the daemon's volume."""
    daemon = cluster.daemons()[0]["metadata"]
    file = nodes.KUBELET / "pods" / daemon["uid"] / "volumes/kubernetes.io~projected/etc/jwks.json"

    def brought():
        cluster.look_again("keyferry", daemon["name"])
        return text in file.read_text()

    cluster.until("the daemon's jwks.json changes", brought, 90, every=1)


def keys_from_the_cluster(cluster):
    """Without the right to fetch keys, Keyferry uses those that a former daemon kept. Without those, Pods wait until the right is there."""
    kept = nodes.STATE / "jwks.state"
    kept.unlink(missing_ok=True)
    cluster.install("jwks-in-cluster")
    starts(cluster, "fetched")
    cluster.kubectl("delete", "--ignore-not-found", "clusterrolebinding", "system:service-account-issuer-discovery", "keyferry-issuer-discovery")
    killed(cluster)
    starts(cluster, "kept")
    kept.unlink()
    killed(cluster)
    applies(cluster, "no-keys")
    waits(cluster, "no-keys", f"IdentityUnverified: key: the issuer's keys could not be fetched yet: GET https://{nodes.API_SERVICE}:443/openid/v1/jwks: it "
                              "answered 403 Forbidden (bind the ClusterRole system:service-account-issuer-discovery to the daemon's ServiceAccount; kubelet "
                              "tries again by itself)")
    cluster.kubectl("apply", "-f", MANIFESTS / "overlays/jwks-in-cluster/rbac.yaml")
    cluster.ready("who", "no-keys", seconds=130)
    leave(cluster, "jwks-in-cluster")


def reviews(cluster):
    """Without the right to ask for reviews Pods wait until it is there."""
    cluster.install("token-review")
    starts(cluster, "reviewed")
    cluster.kubectl("delete", "clusterrolebinding", "keyferry-token-review")
    applies(cluster, "not-reviewed")
    waits(cluster, "not-reviewed", "IdentityUnverified: token: the API server could not be asked about it: POST "
                                   f"https://{nodes.API_SERVICE}:443/apis/authentication.k8s.io/v1/tokenreviews: it answered 403 Forbidden (the daemon's "
                                   "ServiceAccount needs a ClusterRole with the verb `create` on tokenreviews of authentication.k8s.io, and a "
                                   "ClusterRoleBinding to it; kubelet tries again by itself)")
    cluster.kubectl("apply", "-f", MANIFESTS / "overlays/token-review/rbac.yaml")
    cluster.ready("who", "not-reviewed", seconds=130)
    leave(cluster, "token-review")


def leave(cluster, overlay):
    follow(cluster, "install.md", "Other ways", "From one overlay to another", replaced={"token-review": overlay})


# === Pods ===


def applies(cluster, name):
    cluster.apply(secret_provider_class(name, "who", "- secret: who/note\n  field: text\n"), pod(name, "who", name))


def starts(cluster, name):
    applies(cluster, name)
    cluster.ready("who", name)
    same(cluster.read("who", name, "/secrets/text"), "of who", f"{name}: the file")
    same(cluster.audit("who", name)[-1]["verified"], True, f"{name}: whether a token proved it")


def waits(cluster, name, expected):
    event = cluster.waits_with("who", name, "IdentityUnverified")
    same(event, failed_mount("Unauthenticated", "who", name, expected), f"the event of {name}")


def uid(cluster, namespace, name):
    return cluster.get("pod", name, namespace)["metadata"]["uid"]


def killed(cluster):
    """The daemon is killed, and kubelet has started it again."""
    before = set(cluster.kill_daemon())
    cluster.until("kubelet starts the daemon again", lambda: set(daemon_pids()) - before, 60)
    cluster.rolled_out()
