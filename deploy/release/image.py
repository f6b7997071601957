"""The image for all processors, as one archive in the format of OCI (image-spec 1.1), without a container engine and without root.

    image.py ARCHIVE --epoch SECONDS --commit COMMIT --certificates FILE amd64=BINARY [arm64=BINARY]

Prints the image's digest: that of the index, which a registry shows too. It reads user, command and labels from the last stage of
deploy/Dockerfile: so both kinds of image start in the same way and have the same labels.
"""

import argparse
import hashlib
import json
import shlex
from datetime import datetime, timezone
from pathlib import Path

import archive

DOCKERFILE = Path(__file__).resolve().parent.parent / "Dockerfile"

# The name in chart and manifests before anybody changes them.
NAME = "registry.example/keyferry"

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("binaries", nargs="+", metavar="ARCHITECTURE=BINARY")
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    given = parser.parse_args()
    binaries = {name: Path(path).read_bytes() for name, path in (pair.split("=", 1) for pair in given.binaries)}
    made, digest = image(binaries, given.certificates.read_bytes(), given.epoch, given.commit)
    given.archive.write_bytes(made)
    print(digest)


def image(binaries, certificates, epoch, commit):
    """The archive, and the digest of the index in it."""
    blobs = Blobs()
    stage = last_stage(DOCKERFILE.read_text())
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {**stage["Labels"], "org.opencontainers.image.revision": commit}
    manifests = []
    for architecture, binary in sorted(binaries.items()):
        layer = archive.tar(
            [archive.File("keyferry", binary, 0o555), archive.File("etc/ssl/certs/ca-certificates.crt", certificates, 0o444)], epoch
        )
        config = {
            "architecture": architecture,
            "config": {**stage, "Labels": labels},
            "created": created,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blobs.put_json(CONFIG, config),
            "layers": [blobs.put(LAYER, archive.gzip(layer))],
        }
        manifests.append({**blobs.put_json(MANIFEST, manifest), "platform": {"architecture": architecture, "os": "linux"}})
    annotations = {**labels, "org.opencontainers.image.created": created}
    index = blobs.put_json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations})
    # An index of one entry: a program that copies an archive takes this one, with all processors. A node that imports it finds it by this name.
    tag = {"org.opencontainers.image.ref.name": f"{NAME}:{labels['org.opencontainers.image.version']}"}
    layout = [
        archive.File("oci-layout", as_json({"imageLayoutVersion": "1.0.0"})),
        archive.File("index.json", as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**index, "annotations": tag}]})),
    ]
    return archive.tar([*layout, *blobs.by_digest.values()], epoch), index["digest"]


class Blobs:
    def __init__(self):
        self.by_digest = {}

    def put(self, kind, contents):
        digest = digest_of(contents)
        self.by_digest[digest] = archive.File("blobs/" + digest.replace(":", "/"), contents)
        return {"mediaType": kind, "digest": digest, "size": len(contents)}

    def put_json(self, kind, value):
        return self.put(kind, as_json(value))


def digest_of(contents):
    return "sha256:" + hashlib.sha256(contents).hexdigest()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# === The Dockerfile ===


def last_stage(dockerfile):
    """What follows `FROM scratch`, as the configuration of an image. An unknown instruction is an error, because it would be lost."""
    made = {"Env": [], "Labels": {}}
    for instruction, rest in instructions(dockerfile.split("\nFROM scratch\n")[1]):
        match instruction:
            case "COPY":
                pass  # the files: `image` has them
            case "CMD":
                made["Cmd"] = json.loads(rest)
            case "ENTRYPOINT":
                made["Entrypoint"] = json.loads(rest)
            case "ENV":
                made["Env"] += shlex.split(rest)
            case "LABEL":
                made["Labels"].update(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                made["User"] = rest
            case _:
                raise SystemExit(f"{DOCKERFILE.name}: {instruction} is not known in the last stage (teach it to deploy/release/image.py)")
    return made


def instructions(text):
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, rest = line.split(None, 1)
        yield instruction, rest.strip()


if __name__ == "__main__":
    main()
