"""50 Pods start while the daemon is killed every 3 s, while it is rolled out, and while kubelet restarts: all ready, no file empty.
"""

import threading
import time

from cluster import Failed, no_file_is_empty, pod, secret_provider_class

SHORT = True

PODS = 50
FILES = {"token": 100, "other": 100}
# What a Pod's event may say meanwhile. Any other event is not explained, and fails the run.
EXPLAINED = ["connection refused", "provider not found", "no such file or directory", "error reading from server", "transport is closing",
             "connection reset", "deadline exceeded", "DeadlineExceeded", "Unavailable", "driver name secrets-store.csi.k8s.io not found",
             "failed to sync configmap cache", "EOF", "not registered"]


def run(cluster):
    cluster.namespace("storm")
    cluster.set_secret("storm/app", token="x" * 100, other="y" * 100)
    cluster.apply(secret_provider_class("app", "storm", '- secret: storm/app\n  fields: "*"\n  path: ./\n'))
    for name, trouble in [("killed", killed), ("rolled-out", rolled_out), ("kubelet", kubelet_restarts)]:
        start(cluster, name, trouble)
    cluster.drop_namespace("storm")


def start(cluster, name, trouble):
    """Starts 50 Pods in the middle of a trouble, and checks that each has its files."""
    before = cluster.failed_mounts("storm")
    over = threading.Event()
    thread = threading.Thread(target=trouble, args=(cluster, over))
    started = time.monotonic()
    thread.start()
    try:
        names = [f"{name}-{number}" for number in range(PODS)]
        cluster.apply({"apiVersion": "v1", "kind": "List", "items": [pod(each, "storm", "app") for each in names]})
        # The trouble ends before the wait does: a provider that somebody kills for ever starts nothing.
        time.sleep(12)
    finally:
        over.set()
        thread.join()
    cluster.ready("storm", *names, seconds=180)
    no_file_is_empty(cluster, "storm", names, FILES)
    failed = {event: count for event, count in cluster.failed_mounts("storm").items() if event not in before}
    unexplained = [event for event in failed if not any(words in event for words in EXPLAINED)]
    if unexplained:
        raise Failed(f"{name}: events that nobody has explained: {unexplained}")
    cluster.remark(f"{name}: {time.monotonic() - started:.0f} s, {sum(failed.values())} FailedMount")
    cluster.kubectl("-n", "storm", "delete", "pods", "--all", "--grace-period=1", "--wait=true")


def killed(cluster, over):
    while not over.wait(3):
        cluster.kill_daemon()


def rolled_out(cluster, over):
    while not over.is_set():
        cluster.kubectl("-n", "keyferry", "rollout", "restart", "daemonset/keyferry")
        cluster.rolled_out()
        over.wait(1)


def kubelet_restarts(cluster, over):
    while not over.wait(5):
        cluster.node.restart("kubelet")
