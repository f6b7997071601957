#!/usr/bin/env python3
"""make release: everything that a release publishes, into dist/. docs/release.md says what each file is.

    release.py [--tag TAG] [--ready | --install]

ARCHITECTURES="amd64" builds for these alone; a release has all of them. Equal commits give equal bytes on every machine with the same compilers and C
library. The file `...-build.txt` lists those of this build.
Exit code: 0 done, 1 a build failed, 2 cannot run here.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(f"make release: Python is {platform.python_version()} (3.11 or newer is needed: PYTHON=python3.11 make release)")

import tomllib

import archive
import image
import sbom
import system
from system import ARCHITECTURES, HELM, REPOSITORY, fail, git, output

DIST = REPOSITORY / "dist"
# Not in the target folder of the developer, who has other flags.
BUILT = REPOSITORY / "target/dist"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", help="refuses to build if the checkout is not what this tag promises")
    parser.add_argument("--ready", action="store_true", help="says whether a release can be built here, and ends")
    parser.add_argument("--install", action="store_true", help="installs Debian's packages and Rust's targets that are missing, and ends")
    given = parser.parse_args()
    names = chosen(os.environ.get("ARCHITECTURES", ""))
    if given.install:
        return system.install(names)
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
    refuse_what_cannot_be_built(names, version, given.tag)
    if not given.ready:
        Release(version, names).build()


def chosen(text):
    """The architectures of a list with spaces; all if it has none."""
    names = text.split()
    for name in names:
        if name not in ARCHITECTURES:
            fail(f"ARCHITECTURES: {name!r} is not known (choose from {', '.join(ARCHITECTURES)}, with a space between two)")
    return names or list(ARCHITECTURES)


def refuse_what_cannot_be_built(names, version, tag):
    if platform.machine() != "x86_64":
        fail(f"this machine is {platform.machine()} (build on amd64: the release for arm64 is made there too)")
    needed = re.search(r"^ARG BUILD_IMAGE=rust:([0-9.]+)", image.DOCKERFILE.read_text(), re.MULTILINE)[1]
    if not shutil.which("rustc") or not shutil.which("git"):
        fail("rustc and git are needed (https://rustup.rs has rustc)")
    found = output("rustc", "--version").split()[1]
    if found != needed:
        fail(f"rustc is {found}, and deploy/Dockerfile builds with {needed} (RUSTUP_TOOLCHAIN={needed} make release)")
    commands = [" ".join(command) for command in system.missing(names)]
    if commands:
        fail("\n  ".join(["this machine lacks what the build needs. These commands install it (so does `make release-machine`):", *commands]))
    refuse_changes()
    if tag:
        refuse_wrong_tag(tag, version)


def refuse_changes():
    if not (REPOSITORY / ".git").exists():
        fail(f"{REPOSITORY} is not a checkout of git (a release is built from a commit: git clone)")
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        fail(f"the checkout differs from its commit: {shown} (commit, or put it aside with `git stash --include-untracked`)")


def refuse_wrong_tag(tag, version):
    if tag != f"v{version}":
        fail(f"the tag {tag} does not fit Cargo.toml, whose version is {version} (tag v{version}, or change the version)")
    if f"\n## [{version}]" not in (REPOSITORY / "CHANGELOG.md").read_text():
        fail(f"CHANGELOG.md: no section [{version}] (rename the section [Unreleased])")


class Release:
    def __init__(self, version, names):
        self.version = version
        self.architectures = [ARCHITECTURES[name] for name in names]
        self.commit = git("rev-parse", "HEAD").strip()
        self.epoch = int(git("log", "-1", "--format=%ct"))

    def build(self):
        """All or nothing: it replaces dist/ when everything is there."""
        (REPOSITORY / "target").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="release-", dir=REPOSITORY / "target") as scratch:
            files = {}
            binaries = {}
            for architecture in self.architectures:
                binary, messages = self.compile(architecture)
                binaries[architecture.name] = contents = binary.read_bytes()
                name = f"keyferry-{self.version}-linux-{architecture.name}"
                files[f"{name}.tar.gz"] = self.packed(name, contents)
                files[f"{name}.cdx.json"] = sbom.bill(
                    REPOSITORY / "Cargo.toml", messages, architecture.target, contents, self.epoch, self.commit, linked(architecture)
                )
            files[f"keyferry-{self.version}-image.tar"], digest = image.image(binaries, system.certificates(), self.epoch, self.commit)
            files[f"keyferry-{self.version}-image.digest"] = f"{digest}\n".encode()
            files[f"keyferry-{self.version}.tgz"] = self.chart(Path(scratch))
            files[f"keyferry-{self.version}-build.txt"] = self.record()
            files["SHA256SUMS"] = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()
            made = Path(scratch) / "dist"
            made.mkdir()
            for name, contents in files.items():
                (made / name).write_bytes(contents)
            shutil.rmtree(DIST, ignore_errors=True)
            made.rename(DIST)
        print(f"dist/ has keyferry {self.version} of commit {self.commit}:")
        print(files["SHA256SUMS"].decode(), end="")

    # === The binaries ===

    def compile(self, architecture):
        """The binary, and what cargo said of each crate."""
        print(f"compiling for {architecture.name}", flush=True)
        command = ["cargo", "build", "--release", "--locked", "--bin", "keyferry", "--message-format", "json-render-diagnostics"]
        command += ["--target", architecture.target, "--target-dir", BUILT]
        messages = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True, env=self.environment(architecture)).stdout
        binary = BUILT / architecture.target / "release/keyferry"
        refuse_dynamic(binary, architecture)
        said = json.loads(output(*architecture.emulator, binary, "version", "-o", "json"))
        if (said["version"], said["commit"], said["target"]) != (self.version, self.commit, architecture.target):
            raise SystemExit(f"{binary} says that it is something else: {said}")
        return binary, "\n".join(line for line in messages.splitlines() if line.startswith("{"))

    def environment(self, architecture):
        """No path of this machine ends up in a binary: not in a message of a panic, and not in one of a C library."""
        underscored = architecture.target.replace("-", "_")
        folders = {**self.crates(architecture), str(REPOSITORY): "/build"}
        rust = ["-Ctarget-feature=+crt-static", *(f"--remap-path-prefix={folder}={name}" for folder, name in folders.items())]
        # What cargo would take from .cargo/config.toml if there were no flags for the target.
        c = " ".join(["-g0", "-fno-asynchronous-unwind-tables", *(f"-ffile-prefix-map={folder}={name}" for folder, name in folders.items())])
        return system.environment(
            **{
                "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(rust),
                f"CARGO_TARGET_{underscored.upper()}_LINKER": architecture.compiler,
                f"CC_{underscored}": architecture.compiler,
                f"CFLAGS_{underscored}": c,
                "KEYFERRY_COMMIT": self.commit,
                "SOURCE_DATE_EPOCH": str(self.epoch),
            }
        )

    def crates(self, architecture):
        """The folders with the source of other crates: cargo's registry, or a vendored copy; and Rust's own, if it is installed."""
        metadata = sbom.cargo_metadata(REPOSITORY / "Cargo.toml", architecture.target)
        folders = {str(Path(package["manifest_path"]).parent.parent): "/crates" for package in metadata["packages"] if package["source"]}
        rust = dict(line.split(": ", 1) for line in output("rustc", "--verbose", "--version").splitlines()[1:])
        return {**folders, output("rustc", "--print", "sysroot").strip() + "/lib/rustlib/src/rust": f"/rustc/{rust['commit-hash']}"}

    def packed(self, folder, binary):
        licence = (REPOSITORY / "LICENSE").read_bytes()
        files = [archive.File(f"{folder}/keyferry", binary, 0o755), archive.File(f"{folder}/LICENSE", licence)]
        return archive.gzip(archive.tar(files, self.epoch))

    # === The rest ===

    def chart(self, scratch):
        output(REPOSITORY / HELM, "package", REPOSITORY / "deploy/helm/keyferry", "--destination", scratch)
        return archive.repacked((scratch / f"keyferry-{self.version}.tgz").read_bytes(), self.epoch)

    def record(self):
        """What decides about the bytes in addition to the commit. To build the same, you need the same."""
        lines = [f"commit {self.commit}", f"SOURCE_DATE_EPOCH {self.epoch}", output("rustc", "--version").strip(), Path(HELM).name]
        files = [*system.certificate_files()[:1], Path(shutil.which("gzip"))]
        for architecture in self.architectures:
            files += [architecture.file_of(name) for name in ["libc.a", "libgcc.a"]]
            files += [Path(shutil.which(output(architecture.compiler, f"-print-prog-name={name}").strip())).resolve() for name in ["as", "cc1", "ld"]]
        packages = {system.package_of(file) or (str(file), "of no package") for file in files}
        return "".join(f"{line}\n" for line in [*lines, *sorted(" ".join(package) for package in packages)]).encode()


def refuse_dynamic(binary, architecture):
    if found := re.findall(r"INTERP|NEEDED", output("readelf", "--program-headers", "--dynamic", binary)):
        raise SystemExit(f"the binary for {architecture.name} is not static: {found}")


def linked(architecture):
    """What every binary has in addition to crates: Rust's library, the C library, and the compiler's own."""
    version = output("rustc", "--version").split()[1]
    found = [("std", version, f"pkg:generic/rust-std@{version}", "Rust's standard library")]
    for file, description in [("libc.a", "the C library, linked statically"), ("libgcc_eh.a", "the C compiler's library, linked statically")]:
        package, version = system.package_of(architecture.file_of(file)) or (file, "unknown")
        found.append((package, version, f"pkg:deb/debian/{package}@{version.replace('+', '%2B')}", description))
    return found


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"make release: {' '.join(map(str, failed.cmd))}: failed with code {failed.returncode}")
