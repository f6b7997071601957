"""An outage, as docs/outage.md says how to try one: the store is sealed while Pods start, and the daemon restarts. Then the node restarts, and then the API server is away.
"""

import json
import signal
import time
from pathlib import Path

import stores
from cluster import daemon_pids, pod, same, secret_provider_class
from setup import follow

# Restarts of the node and of the API server: on a node of its own.
LANE = "outage"

LATE = "- secret: kv/data/shop/late\n  field: password\n"


def run(cluster):
    bao = stores.OpenBao(cluster)
    bao.start()
    stores.install(cluster, bao)
    cluster.delete("shop", "pod/first", "--wait=false")
    password = the_drill(cluster, bao)
    the_node_restarts(cluster, bao, password)
    the_daemon_restarts_alone(cluster)
    the_store_is_back(cluster, bao)


def the_drill(cluster, bao):
    """The page's own commands, without the one that ends the outage. Returns the password that the store has."""
    bao.bao("kv", "put", "-mount=kv", "shop/late", "password=late")
    password = bao.bao("kv", "get", "-mount=kv", "-field=password", "shop/db").strip()
    follow(cluster, "outage.md", "Drill", replaced={"bao operator unseal": "true"}, **bao.environment())
    same(sources(cluster.audit("shop", "openbao-static")[-1]), {"stale"}, "the sources of a Pod that starts after the daemon")
    # Nothing has read it before: only the store has it.
    cluster.apply(secret_provider_class("late", "shop", LATE), pod("late", "shop", "late"))
    cluster.waits_with("shop", "late", "BackendUnavailable", "is sealed", seconds=90)
    return password


def the_node_restarts(cluster, bao, password):
    """All in memory is gone, and every Pod of the node begins again: with the API server, without the store."""
    same(bao.health(), 503, "the store's health before the node restarts")
    started, before = time.monotonic(), restarts(cluster)
    cluster.node.reboot()
    # Until kubelet has looked, the API server has the former state.
    cluster.until("the Pod's container starts again", lambda: restarts(cluster) > before, 240, every=2)
    cluster.ready("shop", "openbao-static", seconds=60)
    cluster.remark(f"a Pod runs {time.monotonic() - started:.0f} s after the node's restart, without the store")
    same(cluster.read("shop", "openbao-static", "/secrets/password"), password, "the file after the node's restart")
    same(sources(cluster.audit("shop", "openbao-static")[-1]), {"stale"}, "the sources after the node's restart")


def the_daemon_restarts_alone(cluster):
    """Store and API server are both away. kubelet starts the container again, and comes back for the volumes of running Pods."""
    node = cluster.node
    before = set(daemon_pids())
    node.stop("kube-apiserver", signal.SIGKILL)
    cluster.kill_daemon()
    node.until("kubelet starts the daemon again", lambda: set(daemon_pids()) - before, 90)
    mounted = lambda: [line for line in audit_on_disk() if line.get("pod") == "openbao-static" and line["outcome"] == "delivered"]
    started = time.monotonic()
    node.until("the new process serves a running Pod's volume", mounted, 240)
    cluster.remark(f"a running Pod's volume was served {time.monotonic() - started:.0f} s after the daemon's restart, without store and API server")
    same(sources(mounted()[-1]), {"stale"}, "the sources with store and API server away")
    node.spawn("kube-apiserver", *node.commands["kube-apiserver"])
    node.until("the API server is ready", lambda: node.kubectl("get", "--raw", "/readyz", check=False).returncode == 0)


def the_store_is_back(cluster, bao):
    bao.unseal()
    cluster.ready("shop", "late", seconds=150)
    same(cluster.read("shop", "late", "/secrets/password"), "late", "the file of the Pod that waited")

    def current():
        cluster.look_again("shop", "openbao-static")
        return sources(cluster.audit("shop", "openbao-static")[-1]) <= {"store", "fresh"}

    cluster.until("the store's own answers are delivered again", current, 180, every=2)


def restarts(cluster):
    return cluster.get("pod", "openbao-static", "shop")["status"]["containerStatuses"][0]["restartCount"]


def sources(line):
    return {entry["source"] for entry in line["objects"]}


def audit_on_disk():
    """The audit lines of the container that runs now: without the API server, kubelet's files are all there is."""
    files = sorted(Path("/var/log/pods").glob("keyferry_keyferry-*/keyferry/*.log"), key=lambda path: path.stat().st_mtime)
    lines = [line.split(" ", 3)[3] for line in files[-1].read_text().splitlines()] if files else []
    return [line for line in map(json.loads, filter(lambda line: line.startswith("{"), lines)) if line.get("event") == "mount"]
