"""How an application learns of a change, as docs/reload-applications.md says: events of the folder, a signal, the status object, a restart.
"""

import ctypes
import os
import re
import struct
import time

import tools
from cluster import Failed, pod, same, secret_provider_class
from page import section_text

# It waits for minutes, and has another delivery.
LANE = "reload"

PAGE = "reload-applications.md"
FOLDER_EVENTS = ["CREATE data folder", "CREATE ..data_tmp", "MOVED_FROM ..data_tmp", "MOVED_TO ..data", "DELETE data folder"]
FILE_EVENTS = ["ATTRIB", "DELETE_SELF", "IGNORED"]


def run(cluster):
    cluster.namespace("shop", "web", "reader")
    # The page's Pod and role have these names.
    cluster.set_secret("shop/web", password="first")
    cluster.apply(secret_provider_class("web", "shop", "- secret: shop/web\n  field: password\n"))
    cluster.apply(the_pages_pod(), *fenced("The status object"), *reader(cluster), by_sub_path(), deployment())
    cluster.ready("shop", "web", "reader", "sub-path", seconds=90)
    cluster.kubectl("-n", "shop", "rollout", "status", "deployment/once", "--timeout=60s")
    changes(cluster, "first", "second")
    same(cluster.read("shop", "sub-path", "/password"), "first", "the file that is mounted by subPath, after the change")
    a_restart_reads_again(cluster)
    cluster.install("provider-delivery")
    changes(cluster, "second", "third")
    cluster.install()


def changes(cluster, former, new):
    """A secret changes. Each Pod that watches as the page says sees the change."""
    process = process_of(cluster, "web")
    folder, file = Watch(f"/proc/{process}/root/secrets"), Watch(f"/proc/{process}/root/secrets/password")
    version = versions_read(cluster)[-1][0]
    before = len(signals(cluster))
    started = time.monotonic()
    cluster.set_secret("shop/web", password=new)
    cluster.until("the application gets a signal", lambda: len(signals(cluster)) > before, 240, every=1)
    cluster.remark(f"{new}: signal after {time.monotonic() - started:.0f} s")
    same(signals(cluster)[before:], [new], "what the application read after each signal")
    cluster.until("a Pod reads another version", lambda: versions_read(cluster)[-1][0] != version, 240, every=1)
    # The Pod reads the version before the file: the former file never comes with the new version.
    read = versions_read(cluster)
    same({content for each, content in read if each == read[-1][0]}, {new}, "the files that the Pod found beside the new version")
    # A writer may set the new folder's mode, or not.
    same([event for event in named(folder.events()) if event != "ATTRIB data folder"], FOLDER_EVENTS, "the events of the folder")
    same(named(file.events()), FILE_EVENTS, "the events of the file")


def a_restart_reads_again(cluster):
    def printed():
        name = max(cluster.get("pods", namespace="shop", selector="app=once"), key=lambda item: item["metadata"]["creationTimestamp"])["metadata"]["name"]
        return cluster.kubectl("-n", "shop", "logs", name, check=False).strip()

    same(printed(), "first", "what an application that reads once has after a change")
    cluster.bash(section_text(PAGE, "Restart by hand").split("\n\n")[1].replace("deployment/web", "deployment/once"))
    cluster.kubectl("-n", "shop", "rollout", "status", "deployment/once", "--timeout=60s")
    cluster.until("the new Pod has the new value", lambda: printed() == "second", 30, every=1)


# === Pods ===


def fenced(section):
    """The YAML of a section."""
    return re.findall(r"^```yaml\n(.*?)^```", section_text(PAGE, section), re.M | re.S)


def the_pages_pod():
    """The Pod with a sidecar. A process called `web`, which prints what it reads, plays its application."""
    [text] = fenced("Send a signal")
    application = ("printf '#!/bin/sh\\ntrap \"cat /secrets/password; echo\" HUP\\nwhile :; do sleep 1; done\\n' >/tmp/web; "
                   "chmod +x /tmp/web; exec /tmp/web")
    image = "image: registry.example/web:1"
    if image not in text:
        raise Failed(f"docs/{PAGE} has no {image!r} any more")
    return text.replace(image, f"image: {tools.BUSYBOX}\n      command: [sh, -c, {json_text(application)}]\n     ")


def json_text(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def reader(cluster):
    """A Pod that watches its status object with the page's role and a token of its own, and prints each version with the file. The `wget` of busybox
    has no signature that today's API server takes, so the node's kubectl is in the container."""
    command = ("""kubectl -n shop get secretproviderclasspodstatuses reader-shop-web --watch -o jsonpath='{.status.objects[0].version}{"\\n"}' """
               """| while read -r version; do echo "$version $(cat /secrets/password)"; done""")
    made = pod("reader", "shop", "web", service_account="reader", command=command, automountServiceAccountToken=True)
    made["spec"]["containers"][0]["env"] = [{"name": "HOME", "value": "/tmp"}]
    made["spec"]["containers"][0]["volumeMounts"].append({"name": "kubectl", "mountPath": "/bin/kubectl", "readOnly": True})
    made["spec"]["volumes"].append({"name": "kubectl", "hostPath": {"path": cluster.kubectl_path, "type": "File"}})
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "read-versions", "namespace": "shop"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read-versions"},
               "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "shop"}]}
    return binding, made


def by_sub_path():
    made = pod("sub-path", "shop", "web")
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "secrets", "mountPath": "/password", "subPath": "password", "readOnly": True}]
    return made


def deployment():
    """An application that reads its file once."""
    made = pod("once", "shop", "web", command="cat /secrets/password; echo; exec sleep infinity")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "once", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"app": "once"}}, "template": {"metadata": {"labels": {"app": "once"}}, "spec": made["spec"]}}}


# === Looking ===


def signals(cluster):
    """What the application has printed: a line for each signal."""
    return cluster.kubectl("-n", "shop", "logs", "web", "-c", "web").split()


def versions_read(cluster):
    """The versions and files that the Pod has read."""
    lines = cluster.until("the Pod reads its status object", lambda: cluster.kubectl("-n", "shop", "logs", "reader").splitlines(), 30)
    return [tuple(line.split(" ", 1)) for line in lines]


def process_of(cluster, name):
    """A process of the node by its name."""
    found = [entry for entry in os.listdir("/proc") if entry.isdigit() and command_name(entry) == name]
    same(len(found), 1, f"how many processes are called {name}")
    return found[0]


def command_name(process):
    try:
        with open(f"/proc/{process}/comm") as file:
            return file.read().strip()
    except OSError:
        return None


# inotify(7): the events that name something.
EVENTS = {0x2: "MODIFY", 0x4: "ATTRIB", 0x40: "MOVED_FROM", 0x80: "MOVED_TO", 0x100: "CREATE", 0x200: "DELETE", 0x400: "DELETE_SELF",
          0x800: "MOVE_SELF", 0x8000: "IGNORED"}


class Watch:
    """Watches a path as a process of the container would, by the kernel's inotify: no image here has a program for it."""

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        mask = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
        if libc.inotify_add_watch(self.descriptor, path.encode(), mask) < 0:
            raise Failed(f"inotify_add_watch({path}): {os.strerror(ctypes.get_errno())}")

    def events(self):
        """The events so far, with names, in order; and ends the watch."""
        seen = b""
        while True:
            try:
                seen += os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
        os.close(self.descriptor)
        events, at = [], 0
        while at < len(seen):
            _, mask, _, length = struct.unpack_from("iIII", seen, at)
            name = seen[at + 16:at + 16 + length].rstrip(b"\0").decode()
            events += [(word, name) for bit, word in EVENTS.items() if mask & bit]
            at += 16 + length
        return events


def named(events):
    """Events as the page has them: a data folder has another name each time."""
    return [f"{word} {'data folder' if re.match(r'[.][.][0-9]{4}_', name) else name}".strip() for word, name in events]
