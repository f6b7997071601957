"""What a release needs from the machine that builds it: programs, packages, and an environment without surprises."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HELM = ".tools/helm-4.1.4"
CERTIFICATES = Path("/usr/share/ca-certificates/mozilla")

# What a build may know of the machine. Everything else (RUSTFLAGS, CFLAGS, CARGO_PROFILE_*, the language, the time zone) could change what is built.
KEPT = ["PATH", "HOME", "TMPDIR", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_BUILD_JOBS", "SSL_CERT_FILE"]
PROXIES = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]

# What must be there, and Debian's package that has it.
PACKAGES = {
    "gcc": "gcc",
    "gzip": "gzip",
    "make": "make",
    "readelf": "binutils",
    "npm": "npm",
    "unzip": "unzip",
    str(CERTIFICATES): "ca-certificates",
    "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
}
PACKAGES_FOR_ARM64 = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "/usr/aarch64-linux-gnu/lib/libc.a": "libc6-dev-arm64-cross",
    "qemu-aarch64": "qemu-user",
}


class Architecture:
    """One that a release is for. The names are those of images (Go's); the machine that builds is always amd64."""

    def __init__(self, name, target, compiler, emulator):
        self.name, self.target, self.compiler, self.emulator = name, target, compiler, emulator

    def file_of(self, name):
        """A file to link, of the C library or of the compiler, such as libc.a."""
        return Path(output(self.compiler, f"-print-file-name={name}").strip()).resolve()


ARCHITECTURES = {
    "amd64": Architecture("amd64", "x86_64-unknown-linux-gnu", "gcc", []),
    "arm64": Architecture("arm64", "aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc", ["qemu-aarch64"]),
}


def environment(**more):
    kept = {name: os.environ[name] for name in KEPT + PROXIES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", **more}


def output(*command, **more):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True, env=environment(), **more).stdout


def git(*arguments):
    # A container's checkout belongs to another user: git needs a setting for this.
    return output("git", "-c", f"safe.directory={REPOSITORY}", "-C", REPOSITORY, *arguments)


# === Certificates ===


def certificate_files():
    return sorted(CERTIFICATES.glob("*.crt"))


def certificates():
    """The bundle of Debian's package. Not the machine's own bundle, which also has what its owner trusts."""
    return b"".join(file.read_bytes() for file in certificate_files())


# === What is missing ===


def missing(architectures):
    """The commands that install what is missing, or none."""
    packages = missing_packages(architectures)
    commands = [["apt-get", "install", "--no-install-recommends", *packages]] if packages else []
    targets = missing_targets(architectures)
    return commands + ([["rustup", "target", "add", *targets]] if targets else [])


def missing_packages(architectures):
    needed = {**PACKAGES, **(PACKAGES_FOR_ARM64 if "arm64" in architectures else {})}
    if (REPOSITORY / HELM).exists():
        needed = {what: package for what, package in needed.items() if package not in ["npm", "unzip"]}
    return sorted({package for what, package in needed.items() if not (Path(what).exists() if what.startswith("/") else shutil.which(what))})


def missing_targets(architectures):
    targets = [ARCHITECTURES[name].target for name in architectures]
    return [target for target in targets if not Path(output("rustc", "--print", "target-libdir", "--target", target).strip()).is_dir()]


def install(architectures):
    """For a machine that is made for this, such as CI's."""
    for command in missing(architectures):
        if command[0] == "apt-get":
            subprocess.run(["apt-get", "update", "--quiet"], check=True)
            command = [*command, "--yes", "--quiet"]
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


# === What was used ===


def package_of(file):
    """Debian's package that has a file, and its version; None on another system."""
    if not shutil.which("dpkg-query"):
        return None
    # Packages of Debian 12 still name files of /usr by their old place.
    for name in [str(file), str(file).removeprefix("/usr")]:
        found = subprocess.run(["dpkg-query", "--search", name], capture_output=True, text=True, env=environment())
        if found.returncode == 0:
            package = found.stdout.split(": ")[0]
            return package.split(":")[0], output("dpkg-query", "--show", "--showformat", "${Version}", package)
    return None


def fail(message):
    print(f"make release: {message}", file=sys.stderr)
    raise SystemExit(2)
