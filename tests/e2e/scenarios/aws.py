"""AWS, played by a server. Keyferry logs in as the Pod, with kubelet's own token and the role in its ServiceAccount's annotation: files, rotation, a denied and an absent name, a class of AWS's own provider, and AWS out.
"""

import json
import time

import node as nodes
import stores
from cluster import contains, pod, same, secret_provider_class

# It waits for minutes, and has a daemon with another configuration.
LANE = "aws"

# The peer's socket, as in the comment of the overlay's configuration.
PEER = ("# providers: [keyferry, aws]", "providers: [keyferry, aws]")

# The ServiceAccount names its role itself. scenarios/overlays.py tries the overlay's own way, a role of the configuration.
ANNOTATED = (', role: "arn:aws:iam::123456789012:role/${namespace}-${serviceAccount}" }', " }")
ANNOTATION = "eks.amazonaws.com/role-arn"

OBJECTS = """
- secret: secretsmanager/shop/db
  field: password
  path: db/password
- secret: secretsmanager/shop/db
  path: db.json
- secret: ssm/shop/url
  path: url
"""

# With keys in capitals, as in that provider's own tests.
OF_PEER = """
- ObjectName: shop/db
  objectType: secretsmanager
  ObjectAlias: db
  jmesPath:
    - Path: username
      objectAlias: username
- objectName: /shop/url
  objectType: ssmparameter
"""


def run(cluster):
    moto = stores.Moto(cluster)
    moto.start()
    moto.secret("shop/db", json.dumps({"username": "app", "password": "first"}))
    moto.secret("bank/db", "another's")
    moto.parameter("/shop/url", "postgres://db")
    cluster.namespace("shop")
    stores.install_aws(cluster, moto, PEER, ANNOTATED, components=["service-account-annotations"])
    cluster.delete("shop", "pod/first", "--wait=false")
    without_a_role(cluster)
    serves(cluster)
    refusals(cluster)
    peer(cluster)
    changes(cluster, moto)
    out(cluster, moto)


def without_a_role(cluster):
    cluster.apply(secret_provider_class("native", "shop", OBJECTS), pod("no-role", "shop", "native"))
    contains(cluster.waits_with("shop", "no-role", "BackendLoginFailed"), ANNOTATION, "the event of a Pod whose ServiceAccount names no role")
    cluster.delete("shop", "pod/no-role", "--wait=false")
    cluster.kubectl("-n", "shop", "annotate", "serviceaccount", "web", f"{ANNOTATION}=arn:aws:iam::{stores.Moto.ACCOUNT}:role/shop-web")


def serves(cluster):
    cluster.apply(secret_provider_class("native", "shop", OBJECTS), pod("native", "shop", "native"))
    cluster.ready("shop", "native")
    same(set(cluster.files("shop", "native")), {"db/password", "db.json", "url"}, "the files")
    same(cluster.read("shop", "native", "/secrets/db/password"), "first", "a field of a secret")
    same(json.loads(cluster.read("shop", "native", "/secrets/db.json")), {"username": "app", "password": "first"}, "a whole secret")
    same(cluster.read("shop", "native", "/secrets/url"), "postgres://db", "a parameter")
    line = cluster.audit("shop", "native")[0]
    same((line["outcome"], line["verified"], line["serviceAccount"]), ("delivered", True, "web"), "the audit line")
    same([entry["secret"] for entry in line["objects"]], ["secretsmanager/shop/db", "secretsmanager/shop/db", "ssm/shop/url"], "the secrets in it")


def refusals(cluster):
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:bank/db-AbCdEf"
    for name, secret, code, words in [
        ("denied", "secretsmanager/bank/db", "PolicyDenied", "amazon/secretsmanager/bank/db"),
        ("denied-arn", arn, "PolicyDenied", "amazon/secretsmanager/bank/db"),
        ("absent", "secretsmanager/shop/none", "SecretNotFound", "ResourceNotFoundException"),
    ]:
        cluster.apply(secret_provider_class(name, "shop", f"- secret: {secret}\n"), pod(name, "shop", name))
        contains(cluster.waits_with("shop", name, code), words, f"the event of {name}")
        cluster.delete("shop", f"pod/{name}", "--wait=false")


def peer(cluster):
    sockets = {path.name for path in nodes.PROVIDERS.iterdir()}
    same(sockets, {"keyferry.sock", "aws.sock"}, "the sockets")
    cluster.apply(secret_provider_class("peer", "shop", OF_PEER, provider="aws", region="eu-west-1"), pod("peer", "shop", "peer"))
    cluster.ready("shop", "peer")
    same(set(cluster.files("shop", "peer")), {"db", "username", "_shop_url"}, "the files of a class of the peer's")
    same(cluster.read("shop", "peer", "/secrets/username"), "app", "what jmesPath selects")
    same(cluster.audit("shop", "peer")[0]["provider"], "aws", "the provider in the audit line")


def changes(cluster, moto):
    started = time.monotonic()
    moto.change("shop/db", json.dumps({"username": "app", "password": "second"}))

    def changed():
        cluster.look_again("shop", "native")
        return cluster.read("shop", "native", "/secrets/db/password") == "second"

    cluster.until("the changed secret is in the file", changed, 180, every=2)
    cluster.remark(f"a changed secret is in the file after {time.monotonic() - started:.0f} s, cache.fresh 2 minutes")


def out(cluster, moto):
    """With cache.stale, as the overlay has it: a Pod of the same ServiceAccount starts all the same."""
    moto.kill()
    cluster.apply(pod("late", "shop", "native"))
    cluster.ready("shop", "late", seconds=60)
    same(cluster.read("shop", "late", "/secrets/db/password"), "second", "the file of a Pod that starts while AWS is out")
