"""The provider is away for longer than kubelet waits, or is killed in the middle of a mount: the Pod waits, and then has its files.
"""

import os
import signal
import time

from cluster import daemon_pids, no_file_is_empty, pod, same, secret_provider_class

# It waits for minutes, so it has a node of its own.
LANE = "trap"

# kubelet gives a mount 2 minutes.
AWAY = 140


def run(cluster):
    prepare(cluster)
    away(cluster, "away")
    no_file_is_empty(cluster, "trap", ["away"], {"token": 7})
    for times in [1, 3]:
        killed_in_a_mount(cluster, f"killed-{times}", times)
        no_file_is_empty(cluster, "trap", [f"killed-{times}"], {"token": 7})
    cluster.remark(f"rotation-poll-interval {cluster.node.rotation_poll_interval}")
    cluster.drop_namespace("trap")


def prepare(cluster):
    """The driver keeps a provider's client once it has had one: without a first mount it would say at once that there is no provider."""
    cluster.namespace("trap")
    cluster.set_secret("trap/app", token="present")
    cluster.apply(secret_provider_class("app", "trap", "- secret: trap/app\n  field: token\n"), pod("first", "trap", "app"))
    cluster.ready("trap", "first")


def away(cluster, name):
    """A Pod starts while the provider is away for longer than kubelet's own deadline. The driver's client waits, and kubelet's call runs out."""
    cluster.hold_daemon_back()
    cluster.apply(pod(name, "trap", "app"))
    time.sleep(AWAY)
    same(cluster.get("pod", "first", "trap")["status"]["phase"], "Running", "the phase of a Pod that runs already")
    cluster.let_daemon_come()
    cluster.ready("trap", name, seconds=150)


def killed_in_a_mount(cluster, name, times):
    """The driver tries a mount three times. Each time the daemon is stopped, so that the call hangs in it, and then killed."""
    freeze(cluster)
    cluster.apply(pod(name, "trap", "app"))
    for _ in range(times):
        (frozen,) = freeze(cluster)
        time.sleep(3)
        os.kill(frozen, signal.SIGKILL)
        cluster.until("the killed daemon is gone", lambda frozen=frozen: frozen not in daemon_pids())
    cluster.ready("trap", name, seconds=240)


def freeze(cluster):
    """Stops the daemon as soon as it runs. Its socket stays, and takes calls that nobody answers."""
    pids = cluster.until("a daemon runs", daemon_pids, 120, every=0.05)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids
