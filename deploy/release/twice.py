#!/usr/bin/env python3
"""make release-twice: builds a release of this commit two times and compares every byte.

The two builds differ in all that must not matter: the folder of the checkout and its length, cargo's home, the time, the time zone, the language, the
umask, the variables of the environment. A second build finds nothing of the first one: each compiles everything.
Exit code: 0 equal, 1 different, 2 cannot run here.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from system import REPOSITORY

FIRST = {"LANG": "C", "TZ": "UTC"}
SECOND = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "CFLAGS": "-O1 -g",
    "RUSTFLAGS": "-Copt-level=1",
    "CARGO_PROFILE_RELEASE_DEBUG": "true",
    "SOURCE_DATE_EPOCH": "1",
}


def main():
    with tempfile.TemporaryDirectory(prefix="keyferry-", dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        first = build(Path(scratch) / "a", FIRST, 0o022)
        second = build(Path(scratch) / "another-folder/deeper/keyferry", SECOND, 0o077)
        names = sorted({file.name for folder in [first, second] for file in folder.iterdir()})
        different = [name for name in names if contents(first / name) != contents(second / name)]
        if different:
            kept = REPOSITORY / "target/release-twice"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(first, kept / "first")
            shutil.copytree(second, kept / "second")
            print(f"the two builds differ in: {', '.join(different)} (both are in {kept})", file=sys.stderr)
            return 1
        print(f"two builds in different folders are equal, byte by byte: {len(names)} files")
        print((first / "SHA256SUMS").read_text(), end="")
    return 0


def build(folder, variables, umask):
    """Makes a checkout of the commit and a release in it. Returns the release's folder."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, folder], check=True)
    (folder / ".tools").symlink_to(REPOSITORY / ".tools")
    # The same fetched crates, at another path.
    home = folder.parent / f"cargo-{folder.name}"
    home.mkdir()
    fetched = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    (fetched / "registry").mkdir(exist_ok=True)
    (home / "registry").symlink_to(fetched / "registry")
    environment = {name: value for name, value in os.environ.items() if name not in SECOND}
    # Make's own variables would show the first make to the second one.
    environment = {name: value for name, value in environment.items() if not name.startswith("MAKE")}
    print(f"building in {folder}", flush=True)
    subprocess.run(["make", "release"], cwd=folder, check=True, umask=umask, env={**environment, **variables, "CARGO_HOME": str(home)})
    return folder / "dist"


def contents(file):
    return file.read_bytes() if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
