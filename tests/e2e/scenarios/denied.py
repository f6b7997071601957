"""A Pod of another namespace gets nothing, and its event says why, to the letter of docs/install.md.
"""

from cluster import contains, pod, same, secret_provider_class
from page import blocks

SHORT = True
NEEDS_NODE = False


def run(cluster):
    page = next(block.text for block in blocks("install.md", "7.") if block.text.startswith("PolicyDenied"))
    expected = " ".join(page.split())
    cluster.namespace("bank")
    cluster.apply(
        secret_provider_class("first", "bank", "- secret: shop/db\n  field: password\n"),
        pod("first", "bank", "first", service_account="default"),
    )
    event = cluster.waits_with("bank", "first", "PolicyDenied")
    contains(event, "MountVolume.SetUp failed for volume \"secrets\" : rpc error: code = PermissionDenied", "the event")
    contains(" ".join(event.split()), expected, "the event")
    phase = cluster.get("pod", "first", "bank")["status"]["phase"]
    same(phase, "Pending", "the denied Pod's phase")
    cluster.drop_namespace("bank")
