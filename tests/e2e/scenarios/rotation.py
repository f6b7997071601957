"""A changed secret reaches the running Pod's files, its synced Secret and the SecretProviderClassPodStatus; so does a changed class.
"""

import base64
import time

from cluster import pod, same, secret_provider_class

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
    cluster.delete("shop", "pod/rotated")


def versions(cluster):
    statuses = cluster.get("secretproviderclasspodstatuses", namespace="shop")
    status = next((item["status"] for item in statuses if item["status"].get("podName") == "rotated"), {"objects": []})
    return {item["id"]: item["version"] for item in status["objects"]}


def synced(cluster):
    secret = cluster.get("secret", "rotated", "shop")
    return base64.b64decode(secret["data"]["password"]).decode() if secret else None
