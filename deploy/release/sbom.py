"""A bill of materials (CycloneDX 1.6, JSON) of one binary: what cargo has compiled, and what else was linked.

    sbom.py --manifest FILE --messages FILE --target TARGET --binary FILE --epoch SECONDS --commit COMMIT

`--messages` has the output of `cargo build --message-format=json` that made the binary. It says more than Cargo.lock and `cargo metadata`: they do not
know features, so they also list crates that no binary has. A crate that was compiled for the target is `required`. One that only ran during the build
(build scripts, procedural macros) is `excluded`, which is CycloneDX's word for it.
"""

import argparse
import hashlib
import json
import re
import subprocess
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

import system


def main():
    parser = argparse.ArgumentParser()
    for option in ["--manifest", "--messages", "--binary"]:
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--commit", required=True)
    given = parser.parse_args()
    messages = given.messages.read_text()
    made = bill(given.manifest, messages, given.target, given.binary.read_bytes(), given.epoch, given.commit, [])
    print(made.decode(), end="")


def bill(manifest, messages, target, binary, epoch, commit, linked):
    """The document's bytes. `linked` has what is in the binary but not from cargo, as (name, version, purl, description)."""
    metadata = cargo_metadata(manifest, target)
    packages = {package["id"]: package for package in metadata["packages"]}
    ours = packages[metadata["resolve"]["root"]]
    checksums = locked_checksums(manifest.parent / "Cargo.lock")
    scopes = compiled(messages, target)
    del scopes[ours["id"]]
    components = [crate(packages[package], scope, checksums) for package, scope in scopes.items()]
    components += [other(*thing) for thing in linked]
    needed = needs(metadata["resolve"], packages, {ours["id"], *scopes})
    needed[reference(ours)] += [purl for _, _, purl, _ in linked]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{reference(ours)}?commit={commit}&target={target}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                **crate(ours, None, checksums),
                "type": "application",
                "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(binary).hexdigest()}],
                "properties": [{"name": "keyferry:commit", "value": commit}, {"name": "keyferry:target", "value": target}],
            },
        },
        "components": sorted(components, key=lambda component: component["bom-ref"]),
        "dependencies": [{"ref": one, "dependsOn": sorted(others)} for one, others in sorted(needed.items())],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


# === What cargo says ===


def cargo_metadata(manifest, target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, "--manifest-path", manifest]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=system.environment()).stdout)


def compiled(messages, target):
    """The scope of each package that was compiled. Cargo puts what is for the target into a folder of the target's name."""
    scopes = {}
    for line in messages.splitlines():
        message = json.loads(line)
        if message["reason"] != "compiler-artifact":
            continue
        for_target = any(f"/{target}/" in file for file in message["filenames"])
        if for_target or message["package_id"] not in scopes:
            scopes[message["package_id"]] = "required" if for_target else "excluded"
    return scopes


def locked_checksums(lock):
    packages = tomllib.loads(lock.read_text())["package"]
    return {(package["name"], package["version"]): package["checksum"] for package in packages if "checksum" in package}


def needs(resolve, packages, known):
    """Which package needs which, among those that were compiled. No edges for tests."""
    found = {}
    for node in resolve["nodes"]:
        if node["id"] in known:
            kinds = {edge["pkg"]: {kind["kind"] for kind in edge["dep_kinds"]} for edge in node["deps"]}
            found[reference(packages[node["id"]])] = [reference(packages[other]) for other, of in kinds.items() if other in known and of != {"dev"}]
    return found


# === Components ===


def crate(package, scope, checksums):
    """Without a path of this machine, which `cargo metadata` has in many places."""
    made = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if scope:
        made["scope"] = scope
    if package["description"]:
        made["description"] = " ".join(package["description"].split())
    if package["license"]:
        # Older manifests have a slash for OR, which is not SPDX.
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return made


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def other(name, version, purl, description):
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "scope": "required",
        "description": description,
    }


if __name__ == "__main__":
    main()
