"""A cluster as scenarios see it: kubectl, Pods and classes, what a container sees of its files, and how Keyferry gets its settings.

On a node of our own the vault is a folder of the node, and the daemon and driver can be killed. On any other cluster the vault comes as
Secrets, and scenarios that need the node are skipped.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import node as nodes
import tools

MANIFESTS = tools.REPOSITORY / "deploy/manifests"
EXAMPLES = tools.REPOSITORY / "deploy/examples"
OVERLAYS = ["aws", "jwks-in-cluster", "openbao", "provider-delivery", "token-review", "vault-in-secrets"]


class Failed(AssertionError):
    """What the scenario expected, and what it saw: 4,000 characters of it."""

    def __init__(self, text):
        super().__init__(text if len(text) <= 4000 else f"{text[:4000]} ... ({len(text)} characters)")


class Cluster:
    def __init__(self, folder, kubectl, kubeconfig, keyferry, node=None, former=None):
        self.folder = Path(folder)
        self.kubectl_path = str(kubectl)
        self.kubeconfig = str(kubeconfig)
        self.keyferry_path = str(keyferry)
        self.node = node
        # What tools.former() made, where a scenario needs it.
        self.former = Path(former) if former else None
        self.vault = self.folder / "vault"
        self.identity = self.folder / "age.key"
        # Folders of more programs that the pages' commands name.
        self.programs = []
        # What a scenario prints with its result.
        self.remarks = []

    def remark(self, text):
        self.remarks.append(text)

    # --- commands ---

    def kubectl(self, *arguments, check=True, input=None, timeout=180):
        done = subprocess.run([self.kubectl_path, "--kubeconfig", self.kubeconfig, *map(str, arguments)],
                              text=True, capture_output=True, input=input, timeout=timeout)
        if check and done.returncode != 0:
            raise Failed(f"kubectl {' '.join(map(str, arguments))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def get(self, kind, name=None, namespace=None, selector=None):
        """An object, or a list's items, as kubectl's JSON has them. None where a named object is absent."""
        where = ["-n", namespace] if namespace else []
        which = [name] if name else (["-l", selector] if selector else [])
        text = self.kubectl(*where, "get", kind, *which, "-o", "json", "--ignore-not-found")
        if not text.strip():
            return None if name else []
        found = json.loads(text)
        return found if name else found["items"]

    def apply(self, *objects):
        """Applies objects (mappings), or YAML (texts and paths)."""
        for thing in objects:
            if isinstance(thing, Path):
                self.kubectl("apply", "-f", thing)
            else:
                self.kubectl("apply", "-f", "-", input=thing if isinstance(thing, str) else json.dumps(thing))

    def bash(self, script, **environment):
        """Runs a script from the top of the checkout, with kubectl and keyferry as its first programs. Returns what it printed."""
        programs = [Path(self.keyferry_path).parent, Path(self.kubectl_path).parent, *self.programs]
        path = ":".join([*map(str, programs), os.environ["PATH"]])
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, text=True, capture_output=True, timeout=300,
                              env={**os.environ, "PATH": path, "KUBECONFIG": self.kubeconfig, **environment})
        if done.returncode != 0:
            raise Failed(f"a script failed with {done.returncode}:\n{script}\n--- printed ---\n{done.stdout}{done.stderr}")
        return done.stdout

    def until(self, what, found, seconds=60, every=0.2):
        """Waits until `found` returns something true, and returns it. Otherwise fails with what was seen last."""
        deadline = time.monotonic() + seconds
        while True:
            seen = found()
            if seen:
                return seen
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds} s")
            time.sleep(every)

    # --- the vault ---

    def set_secret(self, name, **fields):
        """Sets a secret of the vault, with fields as texts or bytes, and brings it to the place where the daemon reads it."""
        with scratch(self.folder) as folder:
            arguments = []
            for number, (field, value) in enumerate(fields.items()):
                file = folder / str(number)
                file.write_bytes(value if isinstance(value, bytes) else value.encode())
                arguments.append(f"{field.replace('__', '.')}=@{file}")
            subprocess.run([self.keyferry_path, "vault", "set", "--vault", self.vault, "--identity", self.identity, "--replace", name, *arguments],
                           check=True, capture_output=True)
        self.bring_vault()

    def bring_vault(self):
        """Copies the vault to the node, as an admin's rsync would; or makes Secrets of it."""
        if self.node:
            copy_tree(self.vault, nodes.STATE / "vault")
            return
        # A Secret holds 1 MiB, and deploy/examples/vault.sh makes one secret of that size.
        self.secret("keyferry-vault", [self.vault / ".recipients"])
        self.secret("keyferry-vault-shop", [path for path in (self.vault / "shop").glob("*.age") if path.stem != "large"])
        for pod in self.daemons():
            self.look_again("keyferry", pod["metadata"]["name"])

    def secret(self, name, paths):
        files = [f"--from-file={path}" for path in paths]
        text = self.kubectl("-n", "keyferry", "create", "secret", "generic", name, *files, "--dry-run=client", "-o", "yaml")
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)

    # --- namespaces, classes, Pods ---

    def namespace(self, name, *service_accounts):
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for account in service_accounts or ["web"]:
            self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}})
        # The API server refuses a Pod that comes before the default ServiceAccount.
        self.until(f"the namespace {name} has its default ServiceAccount", lambda: self.get("serviceaccount", "default", name))

    def events(self, namespace, name):
        """The texts of an object's events."""
        found = self.kubectl("-n", namespace, "get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json")
        return [event["message"] for event in json.loads(found)["items"]]

    def failed_mounts(self, namespace):
        """How often each FailedMount event of a namespace happened, by its text."""
        found = self.kubectl("-n", namespace, "get", "events", "--field-selector", "reason=FailedMount", "-o", "json")
        return {event["message"]: event.get("count") or 1 for event in json.loads(found)["items"]}

    def ready(self, namespace, *pods, seconds=60):
        try:
            self.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"--timeout={seconds}s", *(f"pod/{pod}" for pod in pods), timeout=seconds + 30)
        except Failed as failed:
            said = "\n".join(f"{pod}: {event}" for pod in pods for event in self.events(namespace, pod))
            raise Failed(f"{failed}\n--- events ---\n{said}") from failed

    def waits_with(self, namespace, pod, *texts, seconds=60):
        """Waits for an event of a Pod that has all these texts, and returns it whole."""
        return self.until(
            f"{namespace}/{pod}: an event with {texts}",
            lambda: next((event for event in self.events(namespace, pod) if all(text in event for text in texts)), None),
            seconds,
        )

    def look_again(self, namespace, pod):
        """Makes kubelet publish a Pod's volumes again, and bring changed Secrets and ConfigMaps, at once: it does so when a Pod changes, and
        otherwise about once a minute."""
        self.kubectl("-n", namespace, "annotate", "--overwrite", "pod", pod, f"e2e/looked={time.time()}")

    def delete(self, namespace, *things):
        self.kubectl("-n", namespace, "delete", "--grace-period=1", "--ignore-not-found", *things)

    def drop_namespace(self, name):
        self.kubectl("-n", name, "delete", "pods", "--all", "--grace-period=0", "--force")
        self.kubectl("delete", "namespace", name, "--wait=false")

    # --- what a container sees ---

    def inside(self, namespace, pod, *command, container=None):
        which = ["-c", container] if container else []
        return self.kubectl("-n", namespace, "exec", pod, *which, "--", *command)

    def read(self, namespace, pod, path, container=None):
        return self.inside(namespace, pod, "cat", path, container=container)

    def files(self, namespace, pod, folder="/secrets", container=None):
        """All files of a volume as the container sees them: path to (mode, owner, size)."""
        script = f"cd {folder} && find -L . -type f ! -path './..*' -exec stat -L -c '%a %u:%g %s %n' {{}} +"
        listed = self.inside(namespace, pod, "sh", "-c", script, container=container)
        files = {}
        for line in listed.splitlines():
            mode, owner, size, path = line.split(" ", 3)
            files[path.removeprefix("./")] = (mode.zfill(4), owner, int(size))
        return files

    # --- Keyferry ---

    def install(self, overlay=None):
        """Brings the daemon to an overlay of deploy/manifests, or to the base, and waits for the roll-out."""
        self.kubectl("apply", "-k", MANIFESTS / "overlays" / overlay if overlay else MANIFESTS)
        self.rolled_out()

    def rolled_out(self, seconds=90):
        self.kubectl("-n", "keyferry", "rollout", "status", "daemonset/keyferry", f"--timeout={seconds}s")

    def daemons(self):
        return self.get("pods", namespace="keyferry", selector="app.kubernetes.io/name=keyferry")

    def daemon_log(self):
        """The daemon's log and audit, parsed, oldest first; also of the former container, if there was one."""
        lines = []
        for previous in ["--previous=true", "--previous=false"]:
            lines += self.kubectl("-n", "keyferry", "logs", "daemonset/keyferry", "--tail=-1", previous, check=False).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def audit(self, namespace, pod):
        """The audit lines of a Pod's mounts."""
        return [line for line in self.daemon_log() if line.get("event") == "mount"
                and (line.get("namespace"), line.get("pod")) == (namespace, pod)]

    def hold_daemon_back(self):
        """Removes the daemon from every node until `let_daemon_come`."""
        self.select_nodes('"yes"')
        self.until("no daemon runs", lambda: not self.daemons())

    def let_daemon_come(self):
        self.select_nodes("null")
        self.rolled_out()

    def select_nodes(self, label):
        self.kubectl("-n", "keyferry", "patch", "daemonset/keyferry", "--type=merge", "-p",
                     '{"spec":{"template":{"spec":{"nodeSelector":{"e2e/absent":' + label + '}}}}}')

    def kill_daemon(self, by=signal.SIGKILL):
        """Kills the daemon's process on the node, and returns its id. kubelet starts the container again."""
        pids = daemon_pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, by)
        return pids


def daemon_pids():
    """The daemon's processes on the node. Its probes are other commands of the same binary."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[:2] == [b"/keyferry", b"serve"]:
                found.append(int(entry.name))
    return found


def copy_tree(source, target):
    """Makes a folder equal to another by single renames, so that a reader never sees half a file."""
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not there.exists() or there.read_bytes() != path.read_bytes():
            draft = there.with_name(f".draft-{there.name}")
            shutil.copyfile(path, draft)
            draft.chmod(0o600)
            draft.rename(there)
    for path in sorted(target.rglob("*"), reverse=True):
        if not (source / path.relative_to(target)).exists():
            path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def scratch(folder):
    path = folder / f"scratch-{time.monotonic_ns()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def volume_files(cluster, namespace, name, volume="secrets"):
    """A volume's files as the node has them: path to size. Fifty times `kubectl exec` would take longer than a scenario."""
    uid = cluster.get("pod", name, namespace)["metadata"]["uid"]
    folder = nodes.KUBELET / f"pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount"
    listed = subprocess.run(["find", "-L", folder, "-type", "f", "!", "-path", "*/..*", "-printf", "%s %P\n"], capture_output=True, text=True, check=True)
    return {path: int(size) for size, path in (line.split(" ", 1) for line in listed.stdout.splitlines())}


def no_file_is_empty(cluster, namespace, names, expected):
    """Each Pod's volume has these files with these sizes. scenarios/controls.py proves that this check can fail."""
    for name in names:
        same(volume_files(cluster, namespace, name), expected, f"the files of {namespace}/{name}")


# === Objects ===


def secret_provider_class(name, namespace, objects, provider="keyferry", secret_objects=None, **parameters):
    spec = {"provider": provider, "parameters": {"objects": objects, **parameters}}
    if secret_objects:
        spec["secretObjects"] = secret_objects
    return {"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def volume(name, class_name, **attributes):
    return {"name": name, "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True,
                                  "volumeAttributes": {"secretProviderClass": class_name, **attributes}}}


def pod(name, namespace, class_name, service_account="web", command="exec sleep infinity", user=65532, **spec):
    """A Pod that mounts a class at /secrets. Its container is not root, and ends at once on SIGTERM."""
    container = {
        "name": "app",
        "image": tools.BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", command],
        "volumeMounts": [{"name": "secrets", "mountPath": "/secrets", "readOnly": True}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": service_account,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": user},
            "containers": [container],
            "volumes": [volume("secrets", class_name)],
            **spec,
        },
    }


# === Checks ===


def failed_mount(code, namespace, pod, message, volume="secrets"):
    """The whole text of a FailedMount event: what kubelet and the driver say, and Keyferry's message."""
    error = f"rpc error: code = {code} desc ="
    return (f'MountVolume.SetUp failed for volume "{volume}" : {error} failed to mount secrets store objects for pod {namespace}/{pod}, err: '
            f"{error} {message}")


def same(seen, expected, what):
    if seen != expected:
        raise Failed(f"{what}:\n  expected {expected!r}\n  saw      {seen!r}")


def contains(text, part, what):
    if part not in text:
        raise Failed(f"{what}:\n  expected a text with {part!r}\n  saw {text!r}")


def matches(text, pattern, what):
    """Compares a printed text with one of a page, in which `...` matches anything, and a date matches any date."""
    expression = ".*".join(re.escape(part) for part in pattern.strip().split("..."))
    expression = re.sub(r"[A-Z][a-z]{2}\\ \d\d\\ \d\d:\d\d", r"[A-Z][a-z]{2} +\\d+ \\d\\d:\\d\\d", expression)
    if not re.search(expression, text.strip(), re.S):
        raise Failed(f"{what}:\n  the page says\n{pattern}\n  printed was\n{text}")
