"""The real driver sends what tests/golden/driver-VERSION.json has. It and kubelet do what that file says after each kind of answer.
"""

import json
import os
import time

import tools
from cluster import Failed, pod, same, secret_provider_class, volume_files

# The driver has another interval here. This scenario must be the last on its node: the recorder replaces Keyferry.
LANE = "controls"
ORDER = 90

# gRPC's codes that are failures. https://grpc.io/docs/guides/status-codes/
CODES = ["CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
         "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"]
FILES = {"files": {"token": "at last"}}


def failure(code):
    return {"code": code, "message": "the provider's words"}


ANSWERS = {
    "files": [FILES],
    "no files": [{"versions": {"one": "1"}}],
    "no versions": [{**FILES, "versions": {}}, FILES],
    "error.code": [{"error": "Broken"}, FILES],
    **{code: [failure(code), FILES] for code in CODES},
    # The driver tries three times by itself. Only then does kubelet hear of it.
    "UNAVAILABLE, three times": [failure("UNAVAILABLE")] * 3 + [FILES],
}
# Long enough for kubelet's third try, and shorter than the interval, after which the driver asks again.
WATCHED = 25
INTERVAL = "2m"


def run(cluster):
    cluster.node.start_driver(INTERVAL)
    record = cluster.node.start_recorder()
    seen = {"driver": cluster.node.driver_version, "kubernetes": kubernetes_version(cluster), **recorded(cluster, record)}
    compare(seen)
    cluster.remark(f"{len(seen['calls'])} kinds of calls, {len(seen['answers'])} answers")


def compare(seen):
    """Writes the golden file with GOLDEN=write, otherwise compares what was seen with it."""
    golden = tools.REPOSITORY / f"tests/golden/driver-{seen['driver']}.json"
    text = json.dumps(seen, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
        return
    if not golden.exists():
        raise Failed(f"{golden.name} does not exist (make golden-driver writes it)")
    expected = json.loads(golden.read_text())
    for part in ["calls", "answers"]:
        same(sorted(seen[part]), sorted(expected[part]), f"{golden.name}: the names of {part}")
        for name, value in seen[part].items():
            same(value, expected[part][name], f"{golden.name}: {part}: {name}")


def recorded(cluster, record):
    cluster.namespace("golden")
    names = {answer: answer.lower().replace("_", "-").replace(" ", "-").replace(".", "-").replace(",", "") for answer in ANSWERS}
    for answer, name in names.items():
        cluster.apply(
            secret_provider_class(name, "golden", "", provider="recorder", answers=json.dumps(ANSWERS[answer])),
            pod(name, "golden", name),
        )
    time.sleep(WATCHED)
    answers = {answer: aftermath(cluster, record, name) for answer, name in names.items()}
    calls = {"first mount": shape(record, "golden/files", 1)}
    for name, fields in [("tokens in secrets", {"serviceAccountTokenInSecrets": True}), ("no tokens", {"tokenRequests": []})]:
        calls[name] = first_call_with(cluster, record, name.replace(" ", "-"), fields)
    # After the interval, the next republish of a mounted volume is a call too.
    cluster.node.start_driver("0s")
    calls["republish"] = cluster.until("a republish", lambda: shape(record, "golden/files", 2), 150)
    cluster.drop_namespace("golden")
    return {"calls": calls, "answers": answers}


def first_call_with(cluster, record, name, fields):
    """The first call for a Pod that starts while the CSIDriver object says something else."""
    before = cluster.get("csidriver", "secrets-store.csi.k8s.io")["spec"]
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "-p", json.dumps({"spec": fields}))
    # kubelet reads the object from a cache of its own.
    time.sleep(3)
    cluster.apply(secret_provider_class(name, "golden", "", provider="recorder"), pod(name, "golden", name))
    cluster.ready("golden", name)
    restored = {key: before.get(key) for key in fields}
    cluster.kubectl("patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "-p", json.dumps({"spec": restored}))
    return shape(record, f"golden/{name}", 1)


def aftermath(cluster, record, name):
    """What followed the first answer of a Pod's volume."""
    tries = [line for line in lines(record) if line.get("pod") == f"golden/{name}" and "shape" in line]
    phase = cluster.get("pod", name, "golden")["status"]["phase"]
    files = volume_files(cluster, "golden", name) if phase == "Running" else {}
    events = [event.replace(name, "<pod.name>") for event in cluster.events("golden", name) if "failed to mount secrets store objects" in event]
    return {
        "asked again": len(tries) > 1,
        "pod": f"{phase}, {'with its file' if files else 'with an empty folder'}",
        "events": sorted(set(events)),
    }


def shape(record, pod, number):
    """The shape of a Pod's call, counted from 1; None where there was none yet."""
    found = [line["shape"] for line in lines(record) if line.get("pod") == pod and "shape" in line]
    return found[number - 1] if len(found) >= number else None


def lines(record):
    return [json.loads(line) for line in record.read_text().splitlines()]


def kubernetes_version(cluster):
    return json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
