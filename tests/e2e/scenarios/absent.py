"""The node restarts and Keyferry comes up last; and the daemon is absent: Pods wait, running ones keep their files, then all are ready.
"""

import time

from cluster import no_file_is_empty, pod, same, secret_provider_class, volume_files

SHORT = True
# It waits, so it runs at the same time as the others.
LANE = "rotation"

PODS = 50
FILES = {"token": 100, "other": 100}


def run(cluster):
    cluster.namespace("absent")
    cluster.set_secret("absent/app", token="x" * 100, other="y" * 100)
    cluster.apply(secret_provider_class("app", "absent", '- secret: absent/app\n  fields: "*"\n  path: ./\n'))
    node_restarts(cluster)
    daemon_absent(cluster)
    cluster.drop_namespace("absent")


def node_restarts(cluster):
    """The node's services end and come back, and Keyferry comes up last: its Pod waits until the others have tried."""
    names = [f"restarted-{number}" for number in range(PODS)]
    cluster.hold_daemon_back()
    started = time.monotonic()
    cluster.apply({"apiVersion": "v1", "kind": "List", "items": [pod(each, "absent", "app") for each in names]})
    cluster.node.reboot()
    time.sleep(10)
    cluster.let_daemon_come()
    cluster.ready("absent", *names, seconds=180)
    no_file_is_empty(cluster, "absent", names, FILES)
    cluster.remark(f"node restarted: {time.monotonic() - started:.0f} s")
    cluster.kubectl("-n", "absent", "delete", "pods", "--all", "--grace-period=1", "--wait=true")


def daemon_absent(cluster):
    """Running Pods keep their files, and a new one waits."""
    cluster.apply(pod("before", "absent", "app"))
    cluster.ready("absent", "before")
    cluster.hold_daemon_back()
    cluster.apply(pod("during", "absent", "app"))
    time.sleep(10)
    same(cluster.get("pod", "during", "absent")["status"]["phase"], "Pending", "the phase of a Pod without a provider")
    same(volume_files(cluster, "absent", "before"), FILES, "the files of a running Pod")
    cluster.let_daemon_come()
    cluster.ready("absent", "during", seconds=150)
    same(volume_files(cluster, "absent", "during"), FILES, "the files of the Pod that waited")
