"""A changed secret reaches the running Pod's files, its synced Secret and the SecretProviderClassPodStatus; so does a changed class. The keys are
replaced as docs/keys.md says.
"""

import base64
import time
from contextlib import suppress

from cluster import Failed, contains, pod, same, secret_provider_class
from page import blocks

SHORT = True
NEEDS_NODE = False
# It waits for a minute, so it has a node of its own.
LANE = "rotation"

SYNCED = [{"secretName": "rotated", "type": "Opaque", "data": [{"objectName": "password", "key": "password"}]}]
BOTH = "- secret: shop/db\n  field: password\n- secret: shop/api\n  field: token\n"
OTHER = "- secret: shop/db\n  field: password\n- secret: shop/db\n  field: username\n"


def run(cluster):
    cluster.set_secret("shop/db", username="app", password="first")
    cluster.set_secret("shop/api", token="unchanged")
    cluster.namespace("shop")
    cluster.apply(secret_provider_class("rotated", "shop", BOTH, secret_objects=SYNCED), pod("rotated", "shop", "rotated"))
    cluster.ready("shop", "rotated")
    first = versions(cluster)
    same(set(first), {"files/shop/db", "files/shop/api"}, "the objects of the SecretProviderClassPodStatus")
    cluster.until("the synced Secret", lambda: synced(cluster) == "first")

    started = time.monotonic()
    cluster.set_secret("shop/db", username="app", password="second")
    cluster.until("the file changes", lambda: cluster.read("shop", "rotated", "/secrets/password") == "second", 240, every=1)
    in_file = time.monotonic() - started
    cluster.until("the synced Secret changes", lambda: synced(cluster) == "second", 60, every=1)
    cluster.until("the status changes", lambda: versions(cluster)["files/shop/db"] != first["files/shop/db"], 30)
    same(versions(cluster)["files/shop/api"], first["files/shop/api"], "the version of the secret that did not change")
    interval = f", rotation-poll-interval {cluster.node.rotation_poll_interval}" if cluster.node else ""
    cluster.remark(f"a changed secret is in the file after {in_file:.0f} s{interval}")

    # One object is taken out, another is added.
    cluster.apply(secret_provider_class("rotated", "shop", OTHER, secret_objects=SYNCED))
    cluster.until("the files of the changed class", lambda: set(cluster.files("shop", "rotated")) == {"password", "username"}, 240, every=1)
    if cluster.node:
        keys(cluster)
    cluster.delete("shop", "pod/rotated")


def keys(cluster):
    """The page's commands for a cluster. tests/it/pages.rs runs those for the vault, which come between them."""
    both, log, recipients, new, opens, version_key = (block.text for block in blocks("keys.md", "Rotation on a cluster"))
    old = cluster.bash("sed -n 's/^# public key: //p' age.key").strip()
    cluster.bash("keyferry vault init --vault vault --identity new.key; (umask 077; cat age.key new.key >both.key)")
    cluster.bash(both)
    has_identities(cluster, log, 2)

    cluster.bash(f"keyferry vault rekey --vault vault --identity age.key --remove {old}")
    cluster.bring_vault()
    listed = cluster.bash(recipients)
    contains(listed, "\nage1", "the recipients on the node")
    same(old in listed, False, "whether the node still has the old recipient")
    cluster.bash(new)
    has_identities(cluster, log, 1)
    # With -q it names only what cannot be opened.
    same([line for line in cluster.bash(opens).splitlines() if not line.startswith("pod/")], [], "the secrets that do not open")
    cluster.bash("rm age.key both.key; mv new.key age.key")

    cluster.bash(version_key)
    cluster.apply(pod("late", "shop", "rotated"))
    cluster.ready("shop", "late")
    same(cluster.read("shop", "late", "/secrets/password"), "second", "the file of a Pod that starts after the keys were replaced")
    cluster.delete("shop", "pod/late")


def has_identities(cluster, log, count):
    """kubelet brings a changed Secret within a minute, and the next mount uses it."""

    def found():
        for daemon in cluster.daemons():
            cluster.look_again("keyferry", daemon["metadata"]["name"])
        cluster.look_again("shop", "rotated")
        with suppress(Failed):
            lines = cluster.bash(log).splitlines()
            return f'"identities":{count}' in lines[-1]

    cluster.until(f"the daemon has {count} identities", found, 180, every=1)


def versions(cluster):
    statuses = cluster.get("secretproviderclasspodstatuses", namespace="shop")
    status = next((item["status"] for item in statuses if item["status"].get("podName") == "rotated"), {"objects": []})
    return {item["id"]: item["version"] for item in status["objects"]}


def synced(cluster):
    secret = cluster.get("secret", "rotated", "shop")
    return base64.b64decode(secret["data"]["password"]).decode() if secret else None
