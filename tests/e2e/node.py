"""A Kubernetes node of the run's own: etcd, control plane, containerd, kubelet and the driver, in namespaces. All of it ends
with their first process.

`enter` makes the namespaces. Inside, /run, /var/lib and /var/log are new and empty, and so is the network: kubelet's folders, the
providers' sockets and the API server's ports are where a real node has them, and nothing of the machine is touched. Only cgroups are the
machine's; they are below a folder of the run's own, and `enter` removes it.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import tools

# The network of a node's own address. kubelet may not use the loopback's, or `kubectl exec` finds nobody.
ADDRESS = "10.10.0.1"
# The Service `kubernetes`, on the loopback in place of kube-proxy. The API server listens on its port itself.
API_SERVICE = "10.96.0.1"
# Where a scenario's own servers (OpenBao, PostgreSQL) can be reached from Pods and from the node.
SERVERS = "10.96.0.20"

NODE = "node-1"
PROVIDERS = Path("/var/run/secrets-store-csi-providers")
STATE = Path("/var/lib/keyferry")
KUBELET = Path("/var/lib/kubelet")
CGROUPS = Path("/sys/fs/cgroup")


# === The namespaces ===


# What `enter` runs now, so that `leave_all` can end it.
ENTERED = []


def enter(command, folder):
    """Runs a command as the first process of new namespaces, and waits for it. Returns its exit code."""
    group = f"keyferry-e2e-{os.getpid()}-{secrets.token_hex(3)}"
    parents = cgroup_parents()
    for parent in parents:
        (parent / group).mkdir()
    # A shell is the first process, because it reaps what containerd's shims leave behind.
    inside = ["sh", "-c", '"$@"; exit $?', "sh", *map(str, command), "--cgroup", group]
    # unshare --fork does not pass SIGTERM on. So SIGKILL ends it, also when this process ends; --kill-child passes that on to all within.
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", *inside],
        cwd=tools.REPOSITORY,
        env={**os.environ, "KEYFERRY_E2E_FOLDER": str(folder)},
    )
    ENTERED.append(process)
    code = process.wait()
    for parent in parents:
        remove_cgroup(parent / group)
    return code


def leave_all():
    for process in ENTERED:
        process.kill()


def cgroup_parents():
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and (path / "notify_on_release").exists()]


def remove_cgroup(path):
    """Removes a cgroup and all below it. The kernel may take a moment to let go of processes that have just been killed."""
    for folder, _, _ in os.walk(path, topdown=False):
        for _ in range(50):
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.1)


def lay_out(cgroup):
    """Inside the new namespaces: file systems, devices and addresses."""
    run("mount", "--make-rprivate", "/")
    for path in ["/run", "/var/lib", "/var/log"]:
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", path)
    for path in [PROVIDERS, STATE, KUBELET, Path("/run/lock"), Path("/var/log/pods")]:
        path.mkdir(parents=True)
    # The driver mounts each volume below kubelet's folder, and the containers must see it.
    run("mount", "--bind", KUBELET, KUBELET)
    run("mount", "--make-shared", KUBELET)
    run("ip", "link", "set", "lo", "up")
    for address in [API_SERVICE, SERVERS]:
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    run("ip", "link", "add", "node0", "type", "bridge")
    run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
    run("ip", "link", "set", "node0", "up")
    # kubelet looks for a default route when it looks for its address.
    run("ip", "route", "add", "default", "via", ADDRESS, "dev", "node0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    run("hostname", NODE)
    if (CGROUPS / "cgroup.controllers").exists():
        enable_controllers(cgroup)


def enable_controllers(cgroup):
    """Version 2 of cgroups gives a controller to a child only if the parent names it."""
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in controllers if name in {"cpu", "cpuset", "memory", "pids", "io", "hugetlb"})
    for folder in [CGROUPS, CGROUPS / cgroup]:
        (folder / "cgroup.subtree_control").write_text(wanted)


def run(*command, **more):
    return subprocess.run([str(part) for part in command], check=True, **more)


# === The node ===


class Node:
    """All processes of a node. Their logs are in `folder/logs`, one file each."""

    def __init__(self, folder, binaries, driver, driver_source, driver_version, images, cgroup):
        self.folder = Path(folder)
        self.logs = self.folder / "logs"
        self.binaries = Path(binaries)
        self.driver_binary = Path(driver) / "secrets-store-csi-driver"
        self.recorder_binary = Path(driver) / "recorder"
        self.driver_source = Path(driver_source)
        self.driver_version = driver_version
        # Before 1.6.0 the driver renews tokens and rotates in a loop of its own. The interval is its period.
        self.driver_is_old = tools.version_tuple(driver_version) < (1, 6)
        self.images = images
        self.cgroup = cgroup
        self.processes = {}
        self.commands = {}
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self.rotation_poll_interval = None

    def start(self):
        self.logs.mkdir()
        self.make_keys()
        self.start_control_plane()
        self.spawn("containerd", "containerd", "--config", self.containerd_config())
        self.until("containerd answers", lambda: quiet("ctr", "version"))
        for image in self.images:
            run("ctr", "--namespace", "k8s.io", "images", "import", "--digests=false", image, stdout=subprocess.DEVNULL)
        self.start_kubelet()
        self.install_driver()
        self.until("the node is ready", self.is_ready)

    # --- keys ---

    def make_keys(self):
        """A CA, the API server's certificate, a client of kubelet, and the key that signs ServiceAccounts' tokens."""
        self.pki = self.folder / "pki"
        self.pki.mkdir(mode=0o700)
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=e2e",
                     "-keyout", "ca.key", "-out", "ca.crt")
        names = f"IP:{API_SERVICE},IP:{ADDRESS},IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default"
        self.certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
        self.certificate("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n")
        self.openssl("genrsa", "-out", "service-accounts.key", "2048")
        self.write_kubeconfig(self.kubeconfig, {"client-certificate": str(self.pki / "admin.crt"), "client-key": str(self.pki / "admin.key")})

    def certificate(self, name, subject, extensions):
        (self.pki / f"{name}.ext").write_text(extensions)
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                     "-extfile", f"{name}.ext", "-out", f"{name}.crt")

    def openssl(self, *arguments):
        run("openssl", *arguments, cwd=self.pki, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def write_kubeconfig(self, path, user):
        cluster = {"server": f"https://{API_SERVICE}:443", "certificate-authority": str(self.pki / "ca.crt")}
        path.write_text(json.dumps({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "user"}}],
            "current-context": "e2e",
        }))

    # --- the control plane ---

    def start_control_plane(self):
        etcd = "http://127.0.0.1:2379"
        self.spawn("etcd", "etcd", "--data-dir", "/var/lib/etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                   "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn")
        self.spawn(
            "kube-apiserver", self.binaries / "kube-apiserver",
            "--etcd-servers", etcd, "--bind-address", API_SERVICE, "--secure-port", "443", "--advertise-address", ADDRESS, "--service-cluster-ip-range", "10.96.0.0/16",
            "--tls-cert-file", self.pki / "apiserver.crt", "--tls-private-key-file", self.pki / "apiserver.key",
            "--client-ca-file", self.pki / "ca.crt", "--authorization-mode", "RBAC",
            "--kubelet-client-certificate", self.pki / "admin.crt", "--kubelet-client-key", self.pki / "admin.key",
            "--kubelet-preferred-address-types", "InternalIP",
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--service-account-signing-key-file", self.pki / "service-accounts.key",
            "--service-account-key-file", self.pki / "service-accounts.key",
        )
        self.until("the API server is ready", lambda: self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0)
        for name, more in [
            ("kube-controller-manager", ["--service-account-private-key-file", self.pki / "service-accounts.key", "--root-ca-file", self.pki / "ca.crt",
                                         "--use-service-account-credentials=false"]),
            ("kube-scheduler", []),
        ]:
            self.spawn(name, self.binaries / name, "--kubeconfig", self.kubeconfig, "--leader-elect=false", *more)

    # --- the node's own programs ---

    def containerd_config(self):
        networks = self.folder / "cni"
        networks.mkdir()
        (networks / "10-bridge.conflist").write_text(json.dumps({
            "cniVersion": "0.4.0",
            "name": "e2e",
            "plugins": [{
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
            }, {"type": "loopback"}],
        }))
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        config = self.folder / "containerd.toml"
        config.write_text(f"""
version = 2
[{cri}]
  sandbox_image = "{tools.PAUSE}"
  restrict_oom_score_adj = true
  [{cri}.cni]
    bin_dir = "{tools.CNI}"
    conf_dir = "{networks}"
  [{cri}.containerd]
    snapshotter = "overlayfs"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
""")
        return config

    def start_kubelet(self):
        resolv = self.folder / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\n")
        config = self.folder / "kubelet.json"
        config.write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}, "x509": {"clientCAFile": str(self.pki / "ca.crt")}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "maxPods": 250,
            "registerNode": True,
            "resolvConf": str(resolv),
            "shutdownGracePeriod": "0s",
        }))
        self.spawn("kubelet", self.binaries / "kubelet", "--kubeconfig", self.kubeconfig, "--config", config, "--hostname-override", NODE,
                   "--node-ip", ADDRESS, "--root-dir", KUBELET)

    def is_ready(self):
        status = self.kubectl("get", "node", NODE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}", check=False)
        return status.stdout.strip() == "True"

    # --- the driver ---

    def install_driver(self):
        """What the driver's chart installs, from the driver's own files, and the driver as a process of the node."""
        deploy = self.driver_source / "deploy"
        for name in ["secrets-store.csi.x-k8s.io_secretproviderclasses", "secrets-store.csi.x-k8s.io_secretproviderclasspodstatuses",
                     "rbac-secretproviderclass", "rbac-secretprovidersyncing", "csidriver"]:
            self.kubectl("apply", "-f", deploy / f"{name}.yaml")
        if self.driver_is_old:
            for name in ["rbac-secretprovidertokenrequest", "rbac-secretproviderrotation"]:
                if (deploy / f"{name}.yaml").exists():
                    self.kubectl("apply", "-f", deploy / f"{name}.yaml")
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "--patch-file",
                     tools.REPOSITORY / "deploy/manifests/driver/token-requests.yaml")
        if self.driver_is_old:
            self.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "--patch", '{"spec":{"requiresRepublish":false}}')
        self.start_driver()

    def start_driver(self, rotation_poll_interval=None):
        """Starts or restarts the driver. Its default interval is the one of deploy/manifests/driver/values.yaml."""
        self.rotation_poll_interval = rotation_poll_interval or ("15s" if self.driver_is_old else shipped_rotation_poll_interval())
        plugin = KUBELET / "plugins/csi-secrets-store"
        plugin.mkdir(parents=True, exist_ok=True)
        socket = plugin / "csi.sock"
        token = self.kubectl("-n", "kube-system", "create", "token", "secrets-store-csi-driver", "--duration=24h").stdout.strip()
        config = self.folder / "driver.kubeconfig"
        self.write_kubeconfig(config, {"token": token})
        self.spawn("driver", *self.as_in_a_pod(token), self.driver_binary, "--kubeconfig", config, "--endpoint", f"unix:/{socket}", "--nodeid", NODE,
                   "--metrics-addr", "127.0.0.1:8085", "--enable-secret-rotation=true", "--rotation-poll-interval", self.rotation_poll_interval, "--v=5")
        registration = KUBELET / "plugins_registry/secrets-store.csi.k8s.io-reg.sock"
        self.until("kubelet watches for drivers", registration.parent.is_dir)
        self.until("the driver listens", socket.exists)
        self.spawn("registrar", self.binaries / "registrar", "--socket", registration, "--endpoint", socket)
        self.until("the driver is registered", lambda: "secrets-store.csi.k8s.io" in self.kubectl(
            "get", "csinode", NODE, "-o", "jsonpath={.spec.drivers[*].name}", check=False).stdout)

    def as_in_a_pod(self, token):
        """Before 1.6.0, the driver's rotation uses the files of a Pod, whatever --kubeconfig says. Returns the words before the command."""
        folder = Path("/var/run/secrets/kubernetes.io/serviceaccount")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(token)
        shutil.copyfile(self.pki / "ca.crt", folder / "ca.crt")
        return ["env", f"KUBERNETES_SERVICE_HOST={API_SERVICE}", "KUBERNETES_SERVICE_PORT=443"]

    def start_recorder(self):
        """A provider that answers as a class says, and records what the driver sends. Returns the record's path."""
        record = self.folder / "recorder.jsonl"
        self.spawn("recorder", self.recorder_binary, "--socket", PROVIDERS / "recorder.sock", "--record", record)
        self.until("the recorder listens", (PROVIDERS / "recorder.sock").exists)
        return record

    # --- processes ---

    def spawn(self, name, *command):
        """Starts a process, or restarts it. Its output goes to logs/NAME.log."""
        if name in self.processes:
            self.stop(name)
        self.commands[name] = command
        with open(self.logs / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, name, by=signal.SIGTERM):
        process = self.processes.pop(name)
        process.send_signal(by)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, name, by=signal.SIGTERM):
        command = self.commands[name]
        self.stop(name, by)
        self.spawn(name, *command)

    def reboot(self):
        """What a node's restart does: every process ends at once, what was in memory is gone, and the node's services come back."""
        for name in ["kubelet", "registrar", "driver", "containerd"]:
            self.stop(name, signal.SIGKILL)
        kill_containers()
        for point in reversed(mount_points()):
            if point.startswith((f"{KUBELET}/pods/", "/run/")):
                subprocess.run(["umount", "--lazy", point], stderr=subprocess.DEVNULL)
        for folder in [PROVIDERS, Path("/run/containerd"), Path("/run/netns")]:
            shutil.rmtree(folder, ignore_errors=True)
        PROVIDERS.mkdir(parents=True)
        self.spawn("containerd", *self.commands["containerd"])
        self.until("containerd answers", lambda: quiet("ctr", "version"))
        self.spawn("kubelet", *self.commands["kubelet"])
        self.start_driver(self.rotation_poll_interval)

    def until(self, what, holds, seconds=60):
        deadline = time.monotonic() + seconds
        while not holds():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise NodeFailed(f"{name} ended with {process.returncode} while waiting until {what}; the end of its log:\n{self.log_end(name)}")
            if time.monotonic() > deadline:
                raise NodeFailed(f"after {seconds} s it does not hold that {what}")
            time.sleep(0.1)

    def log_end(self, name):
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    def kubectl(self, *arguments, check=True, **more):
        return subprocess.run([str(self.binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig), *map(str, arguments)],
                              check=check, text=True, capture_output=True, **more)


def kill_containers():
    """All processes of Pods, and the shims above them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if "kubepods" in (entry / "cgroup").read_text() or (entry / "comm").read_text().startswith("containerd-shim"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


def mount_points():
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


class NodeFailed(Exception):
    pass


def quiet(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def shipped_rotation_poll_interval():
    """The interval that deploy/manifests/driver/values.yaml sets; or the driver's own default if it sets none."""
    values = (tools.REPOSITORY / "deploy/manifests/driver/values.yaml").read_text()
    found = re.search(r"^rotationPollInterval: *(\S+)", values, re.M)
    return found[1].strip('"') if found else "2m"
