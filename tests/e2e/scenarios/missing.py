"""A missing secret that is set later, and a faulty class that is corrected: both Pods start, and nobody touches them.
"""

from cluster import EXAMPLES, contains, matches, pod, same, secret_provider_class

SHORT = True
NEEDS_NODE = False


def run(cluster):
    cluster.apply(EXAMPLES / "namespace.yaml", EXAMPLES / "missing.yaml")
    cluster.apply(
        secret_provider_class("faulty", "shop", "- secret: shop/db\n  feild: password\n"),
        pod("faulty", "shop", "faulty"),
    )
    cluster.set_secret("shop/db", username="app", password="one")
    event = cluster.waits_with("shop", "missing", "SecretNotFound")
    matches(" ".join(event.split()), promised_event(), "the event of missing.yaml")
    event = cluster.waits_with("shop", "faulty", "InvalidRequest")
    contains(event, 'feild', "the event names the key")
    contains(event, 'field', "the event names the nearest key")
    started = {name: cluster.get("pod", name, "shop")["metadata"]["uid"] for name in ["missing", "faulty"]}
    cluster.set_secret("shop/late", token="come at last")
    cluster.apply(secret_provider_class("faulty", "shop", "- secret: shop/db\n  field: password\n"))
    # kubelet tries again up to 2 minutes and 2 seconds apart.
    cluster.ready("shop", "missing", "faulty", seconds=130)
    same({name: cluster.get("pod", name, "shop")["metadata"]["uid"] for name in started}, started, "the Pods' uids")
    same(cluster.read("shop", "missing", "/secrets/token"), "come at last", "the file of the secret that came late")
    same(cluster.read("shop", "faulty", "/secrets/password"), "one", "the file of the corrected class")
    cluster.delete("shop", "pod/missing", "pod/faulty")


def promised_event():
    """The event as the first lines of missing.yaml have it, without `Warning  FailedMount`."""
    lines = [line.removeprefix("#   ") for line in (EXAMPLES / "missing.yaml").read_text().splitlines() if line.startswith("#   ")]
    return " ".join(" ".join(lines).split()).removeprefix("Warning FailedMount ")
