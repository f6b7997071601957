"""100 Pods of 1 MB start at once: all are served within the manifests' memory limit, as the cgroup counts it, and without a restart.
"""

import time
from pathlib import Path

from cluster import Failed, daemon_pids, pod, same, secret_provider_class

PODS = 100
SIZE = 1_000_000


def run(cluster):
    cluster.namespace("memory")
    cluster.set_secret("memory/blob", blob=bytes(range(256)) * (SIZE // 256))
    cluster.apply(secret_provider_class("blob", "memory", "- secret: memory/blob\n  field: blob\n"))
    # A new container: the group's highest mark is that of this scenario alone.
    cluster.kubectl("-n", "keyferry", "rollout", "restart", "daemonset/keyferry")
    cluster.rolled_out()
    names = [f"pod-{number}" for number in range(PODS)]
    started = time.monotonic()
    cluster.apply({"apiVersion": "v1", "kind": "List", "items": [pod(name, "memory", "blob") for name in names]})
    cluster.ready("memory", *names, seconds=240)
    seconds = time.monotonic() - started
    for name in [names[0], names[PODS // 2], names[-1]]:
        same(cluster.files("memory", name)["blob"][2], SIZE // 256 * 256, f"the size of the file in {name}")
    highest, limit = memory()
    restarts = cluster.daemons()[0]["status"]["containerStatuses"][0]["restartCount"]
    same(restarts, 0, "restarts of the daemon")
    if highest >= limit:
        raise Failed(f"the daemon's group had {highest >> 20} MiB, its limit is {limit >> 20} MiB")
    cluster.remark(f"{PODS} Pods of 1 MB ready in {seconds:.0f} s; at most {highest >> 20} of {limit >> 20} MiB")
    cluster.drop_namespace("memory")


def memory():
    """The highest use and the limit of the daemon's cgroup, in bytes."""
    (pid,) = daemon_pids()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory" + path)
            return int((folder / "memory.max_usage_in_bytes").read_text()), int((folder / "memory.limit_in_bytes").read_text())
        if controllers == "":
            folder = Path("/sys/fs/cgroup" + path)
            if (folder / "memory.peak").exists():
                return int((folder / "memory.peak").read_text()), int((folder / "memory.max").read_text())
    raise Failed(f"the process {pid} has no memory cgroup")
