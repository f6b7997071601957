"""From AWS's own provider to Keyferry and back, as docs/migrate-from-aws-provider.md says: the same files, and running Pods follow both.
"""

import json
import re

import node as nodes
import stores
import tools
from aws import ANNOTATED, ANNOTATION, PEER
from cluster import contains, daemon_pids, pod, same, secret_provider_class
from page import blocks
from setup import follow

# Two providers take turns at one socket.
LANE = "migrate_aws"
NEEDS_AWS_PROVIDER = True

PAGE = "migrate-from-aws-provider.md"
PROVIDER = "csi-secrets-store-provider-aws"
SOCKET = nodes.PROVIDERS / "aws.sock"

OBJECTS = """
- objectName: shop/db
  objectType: secretsmanager
  objectAlias: db
  jmesPath:
    - path: username
      objectAlias: username
    - path: password
      objectAlias: password
- objectName: /shop/url
  objectType: ssmparameter
- objectName: arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/key
  objectAlias: key.pem
  filePermission: "0440"
"""
FILES = {"db", "username", "password", "_shop_url", "key.pem"}

# Pods of one ServiceAccount, each with as many secrets, for the calls that each provider makes.
MANY = 20
COUNTED = "".join(f"- objectName: shop/many-{number}\n  objectType: secretsmanager\n" for number in range(10))


def run(cluster):
    moto = stores.Moto(cluster)
    moto.start()
    fill(moto)
    start_from_their_provider(cluster, moto)
    theirs = serves(cluster, "theirs")
    of_theirs = calls_of(cluster, moto, "theirs")
    configuration = prepares(cluster, moto)
    switches(cluster, moto, configuration)
    same(serves(cluster, "ours"), theirs, "the files of a Pod that started after the switch")
    same(contents(cluster, "theirs"), theirs, "the files of a Pod that started before the switch")
    of_ours = calls_of(cluster, moto, "ours")
    cluster.remark(f"calls for {MANY} Pods with ten secrets: {of_theirs} by AWS's provider, {of_ours} by Keyferry")
    follows(cluster, moto, "second", "theirs", "ours")
    # grep's exit code is 1 where it finds nothing.
    step(cluster, "6.", {"""'"outcome":"denied"'""": """'"outcome":"denied"' || true"""})
    rolls_back(cluster, moto)
    serves(cluster, "back")
    follows(cluster, moto, "third", "theirs", "ours", "back")


def fill(moto):
    moto.secret("shop/db", json.dumps({"username": "app", "password": "first"}))
    moto.secret("shop/key", "not a key\n")
    moto.parameter("/shop/url", "postgres://db")
    for number in range(10):
        moto.secret(f"shop/many-{number}", f"value {number}")


# === The provider that is replaced ===


def start_from_their_provider(cluster, moto):
    """A cluster that has never had Keyferry: the provider's own objects, and the one audience that its chart sets."""
    cluster.delete("shop", "pod/first", "secretproviderclass/first")
    cluster.kubectl("delete", "namespace", "keyferry")
    cluster.until("no daemon runs", lambda: not daemon_pids())
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge",
                    "-p", json.dumps({"spec": {"tokenRequests": [{"audience": "sts.amazonaws.com"}]}}))
    cluster.kubectl("-n", "shop", "annotate", "serviceaccount", "web", f"{ANNOTATION}=arn:aws:iam::{moto.ACCOUNT}:role/shop-web")
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": PROVIDER, "namespace": "kube-system"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": PROVIDER},
         "rules": [{"apiGroups": [""], "resources": ["serviceaccounts", "pods", "nodes"], "verbs": ["get"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": PROVIDER},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": PROVIDER},
         "subjects": [{"kind": "ServiceAccount", "name": PROVIDER, "namespace": "kube-system"}]},
    )
    cluster.kubectl("-n", "kube-system", "create", "secret", "generic", "aws-ca", f"--from-file=aws-ca.crt={moto.ca}")
    bring_their_provider(cluster, moto)


def bring_their_provider(cluster, moto):
    """Its DaemonSet. It finds our server by AWS's own names: for its logins it takes no other address."""
    container = {
        "name": "provider",
        "image": tools.AWS_PROVIDER_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": [f"--provider-volume={nodes.PROVIDERS}"],
        "env": [{"name": "AWS_REGION", "value": moto.REGION}, {"name": "SSL_CERT_FILE", "value": "/ca/aws-ca.crt"}],
        "volumeMounts": [
            {"name": "sockets", "mountPath": str(nodes.PROVIDERS)},
            {"name": "pods", "mountPath": str(nodes.KUBELET / "pods"), "mountPropagation": "HostToContainer"},
            {"name": "ca", "mountPath": "/ca", "readOnly": True},
        ],
    }
    labels = {"app": PROVIDER}
    cluster.apply({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": PROVIDER, "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": PROVIDER,
            "hostAliases": [{"ip": nodes.SERVERS, "hostnames": moto.NAMES}],
            "containers": [container],
            "volumes": [
                {"name": "sockets", "hostPath": {"path": str(nodes.PROVIDERS)}},
                {"name": "pods", "hostPath": {"path": str(nodes.KUBELET / "pods"), "type": "DirectoryOrCreate"}},
                {"name": "ca", "secret": {"secretName": "aws-ca"}},
            ],
        }}},
    })
    cluster.kubectl("-n", "kube-system", "rollout", "status", f"daemonset/{PROVIDER}", "--timeout=90s")
    cluster.until("its socket is there", SOCKET.exists)


# === The steps of the page ===


def prepares(cluster, moto):
    """Steps 1 to 4, while the provider serves. Returns the changes that the overlay's configuration needs."""
    # The reader's configuration of step 3: the overlay's, for our server.
    (cluster.folder / "keyferry.yaml").write_text(f"""
providers: [keyferry, aws]
identity: {{ verify: token-review }}
backends:
  amazon: {{ kind: aws, region: {moto.REGION}, account: "{moto.ACCOUNT}", auth: {{ method: irsa }} }}
policy:
  - pods: {{ namespace: shop }}
    read: ["amazon/**"]
""")
    step(cluster, "1.")
    contains((cluster.folder / "classes.yaml").read_text(), "kind: SecretProviderClass", "what step 1 exports")
    step(cluster, "2.")
    step(cluster, "3.")
    rules = cluster.bash("keyferry check --config keyferry.yaml --suggest-policy classes.yaml")
    for name in ["amazon/secretsmanager/shop/db", "amazon/secretsmanager/shop/key", "amazon/ssm/shop/url"]:
        contains(rules, name, "the suggested rules")
    follow(cluster, "install.md", "4.", skip=["keyferry-age-identity"])
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=json", "-p", audience_patch())
    audiences = {each["audience"] for each in json.loads(step(cluster, "4."))}
    same(audiences, {"keyferry", "sts.amazonaws.com"}, "the audiences after step 4")
    shipped = re.search(r"^policy:\n(?:[ ].*\n)+", (stores.MANIFESTS / "overlays/aws/keyferry.yaml").read_text(), re.M)[0]
    return [PEER, ANNOTATED, (shipped, rules)]


def step(cluster, section, replaced=None):
    """Runs the commands of a section of the page, and returns what they print."""
    script = "\n".join(block.text for block in blocks(PAGE, section) if block.is_command)
    for theirs, ours in (replaced or {}).items():
        script = script.replace(theirs, ours)
    return cluster.bash(script)


def audience_patch():
    """The patch that step 4 names: it adds an audience to the list."""
    text = (stores.MANIFESTS / "driver/token-requests.yaml").read_text()
    return re.search(r"--patch='(.*keyferry.*)'", text)[1]


def switches(cluster, moto, changes):
    """Step 5. A Pod that comes between the two waits, and starts with the second."""
    cluster.kubectl("-n", "kube-system", "delete", "daemonset", PROVIDER, "--wait=true")
    cluster.until("its process ended", lambda: not cluster.get("pods", namespace="kube-system", selector=f"app={PROVIDER}"))
    cluster.remark(f"the provider {'leaves' if SOCKET.exists() else 'removes'} its socket")
    cluster.apply(pod("between", "shop", "classes"))
    # No event tells of it: the driver holds the call until the socket answers again.
    cluster.until("the Pod is on the node", lambda: cluster.get("pod", "between", "shop")["spec"].get("nodeName"))
    stores.install_aws(cluster, moto, *changes, components=["service-account-annotations"], parts=["The region"])
    cluster.ready("shop", "between", seconds=180)
    sockets = {path.name for path in nodes.PROVIDERS.iterdir()}
    same(sockets, {"keyferry.sock", "aws.sock"}, "the sockets after the switch")


def rolls_back(cluster, moto):
    """Step 7."""
    cluster.kubectl("-n", "keyferry", "delete", "daemonset", "keyferry", "--wait=true")
    cluster.until("no daemon runs", lambda: not daemon_pids())
    same(SOCKET.exists(), False, "whether Keyferry's aws.sock is still there")
    bring_their_provider(cluster, moto)


# === What Pods see ===


def serves(cluster, name):
    """A new Pod has all files. Returns them, as its container sees them."""
    cluster.apply(secret_provider_class("classes", "shop", OBJECTS, provider="aws", region="eu-west-1"), pod(name, "shop", "classes"))
    cluster.ready("shop", name)
    files = contents(cluster, name)
    same(set(files), FILES, f"the files of {name}")
    return files


def contents(cluster, name):
    return {path: (mode, owner, cluster.read("shop", name, f"/secrets/{path}")) for path, (mode, owner, _) in cluster.files("shop", name).items()}


def follows(cluster, moto, password, *names):
    """A changed secret reaches Pods of both providers."""
    moto.change("shop/db", json.dumps({"username": "app", "password": password}))

    def changed():
        for name in names:
            cluster.look_again("shop", name)
        return {cluster.read("shop", name, "/secrets/password") for name in names} == {password}

    cluster.until(f"the password {password} is in the files of {names}", changed, 240, every=2)
    seen = {name: contents(cluster, name) for name in names}
    for name in names:
        same(seen[name], seen[names[0]], f"the files of {name}, compared with those of {names[0]}")


def calls_of(cluster, moto, name):
    """How many calls the server gets until many Pods of one ServiceAccount have started."""
    names = [f"{name}-{number}" for number in range(MANY)]
    before = calls(moto)
    cluster.apply(secret_provider_class("many", "shop", COUNTED, provider="aws", region="eu-west-1"), *(pod(each, "shop", "many") for each in names))
    cluster.ready("shop", *names, seconds=180)
    made = calls(moto) - before
    cluster.delete("shop", *(f"pod/{each}" for each in names))
    return made


def calls(moto):
    return len(re.findall(r'"POST / HTTP', (moto.node.logs / "moto.log").read_text()))
