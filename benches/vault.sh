#!/bin/sh
# What it costs to import and rekey 5,000 secrets, compared with a plain loop that writes the same files with one syncfs at the end. FOLDER must be on
# the disk to measure, not on a tmpfs. Needs python3.
#
#   cargo build --release --locked && sh benches/vault.sh target/release/keyferry /var/tmp
set -eu

keyferry=$(realpath "$1")
folder=$(mktemp -d -p "${2:-/var/tmp}")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export KEYFERRY_VAULT="$folder/vault" KEYFERRY_IDENTITY="$folder/age.key"

cat >measure.py <<'END'
import ctypes, json, os, subprocess, sys, time

keyferry = sys.argv[1]


def settle():
    """So that the time has no writes of other programs."""
    os.sync()


def seconds(work):
    settle()
    start = time.monotonic()
    work()
    return time.monotonic() - start


def run(*arguments):
    return lambda: subprocess.run([keyferry, "vault", *arguments], check=True, stdout=subprocess.DEVNULL)


def floor(to):
    """The vault's files, written to another folder of the same file system."""
    files = [os.path.join(base, name) for base, _, names in os.walk("vault") for name in names]
    contents = {os.path.join(to, file): open(file, "rb").read() for file in files}

    def write():
        for file, bytes in contents.items():
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as out:
                out.write(bytes)
        folder = os.open(to, os.O_RDONLY)
        ctypes.CDLL(None).syncfs(folder)
        os.close(folder)

    return write


secrets = {f"ns{n % 50}/s{n}": {"password": {"text": f"{n:08}" + "x" * 32}, "username": {"text": "app"}} for n in range(5000)}
with open("all.json", "w") as out:
    out.write('{"format":"keyferry-export-1","secrets":' + json.dumps(secrets) + "}\n")
run("init")()
for what, work in [("import", run("import", "all.json")), ("rekey", run("rekey"))]:
    took = seconds(work)
    least = seconds(floor(f"floor-{what}"))
    print(f"{what} of 5,000 secrets: {took:.1f} s; the files alone, with one syncfs: {least:.1f} s; ratio {took / least:.1f}", flush=True)
END
python3 measure.py "$keyferry"
