"""Events on Pods: a Pod that starts while the store is down has one, and one when that has ended; and what the real API server does with each call.
"""

import json
import ssl
import urllib.error
import urllib.request

import node as nodes
import stores
from cluster import EXAMPLES, Failed, pod, same

# It has a store that goes down, and a daemon with another configuration: so it has a node of its own.
LANE = "events"

EVENTS = ("log: { format: json, level: info }", "events: { enabled: true }\n\nlog: { format: json, level: info }")
# Keyferry does not ask again for what it has just read, so that is not old.
HARDLY_FRESH = ("  fresh: 2m", "  fresh: 1s")
STARTED, REPLACED = "StartedFromStaleSecret", "StaleSecretReplaced"


def run(cluster):
    bao = stores.OpenBao(cluster)
    bao.start()
    stores.install(cluster, bao, EVENTS, HARDLY_FRESH, components=["events"])
    # The page's first Pod has its secret from the file vault, which this overlay removes.
    cluster.delete("shop", "pod/first", "--wait=false")
    cluster.apply(EXAMPLES / "openbao-static.yaml")
    cluster.ready("shop", "openbao-static")
    pod_starts_without_the_store(cluster, bao)
    what_the_api_server_says(cluster)


# === A Pod ===


def pod_starts_without_the_store(cluster, bao):
    bao.kill()
    example = cluster.get("pod", "openbao-static", "shop")
    class_name = example["spec"]["volumes"][0]["csi"]["volumeAttributes"]["secretProviderClass"]
    cluster.apply(pod("started", "shop", class_name))
    cluster.ready("shop", "started", seconds=60)
    event = one_event(cluster, "started", STARTED)
    same((event["type"], event["reportingController"], event["regarding"]["kind"]), ("Warning", "keyferry", "Pod"), "the Event of the start")
    if f'class "{class_name}": the store is out, so the Pod started with secrets' not in event["note"]:
        raise Failed(f"the note is {event['note']}")
    daemon = cluster.daemons()[0]["metadata"]["name"]
    same(event["reportingInstance"], daemon, "who tells the Event")
    described = cluster.kubectl("-n", "shop", "describe", "pod", "started")
    if STARTED not in described:
        raise Failed(f"kubectl describe pod does not show it:\n{described}")
    # kubelet has published it again meanwhile.
    cluster.look_again("shop", "openbao-static")
    bao.start_sealed()
    bao.unseal()

    def replaced():
        cluster.look_again("shop", "started")
        return events_of(cluster, "started", REPLACED)

    cluster.until("the Event of its end", replaced, 150, every=2)
    same(one_event(cluster, "started", REPLACED)["type"], "Normal", "the Event of the end")
    same(reasons(cluster, "openbao-static"), set(), "our Events of a Pod that started before")


def one_event(cluster, name, reason):
    found = cluster.until(f"an Event {reason} of shop/{name}", lambda: events_of(cluster, name, reason), 60, every=1)
    same(len(found), 1, f"the Events {reason} of shop/{name}")
    return found[0]


def events_of(cluster, name, reason=None):
    """The daemon's Events of a Pod of `shop`, as events.k8s.io has them."""
    items = json.loads(cluster.kubectl("-n", "shop", "get", "events.v1.events.k8s.io", "-o", "json"))["items"]
    ours = [event for event in items if event.get("reportingController") == "keyferry" and event["regarding"]["name"] == name]
    return [event for event in ours if reason in (None, event["reason"])]


def reasons(cluster, name):
    return {event["reason"] for event in events_of(cluster, name)}


# === The API server ===


def what_the_api_server_says(cluster):
    """With the daemon's own rights, each call that the daemon makes, and the answers that it distinguishes (src/kube/event.rs)."""
    token = cluster.kubectl("-n", "keyferry", "create", "token", "keyferry").strip()
    event = events_of(cluster, "started", STARTED)[0]
    path = "/apis/events.k8s.io/v1/namespaces/shop/events"
    named = f"{path}/{event['metadata']['name']}"
    body = {key: event[key] for key in ["eventTime", "reportingController", "reportingInstance", "action", "reason", "regarding", "type", "note"]}
    body |= {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": event["metadata"]["name"], "namespace": "shop"}}
    same(call(cluster, token, "POST", path, body)[0], 409, "an Event that is there")
    same(call(cluster, token, "GET", named)[0], 403, "to read an Event")
    same(call(cluster, token, "DELETE", named)[0], 403, "to remove an Event")
    for count in [2, 3]:
        status, found = call(cluster, token, "PATCH", named, {})
        same((status, (found.get("series") or {"count": 1})["count"]), (200, count - 1), "a patch of nothing")
        series = {"count": count, "lastObservedTime": event["eventTime"]}
        same(call(cluster, token, "PATCH", named, {"series": series})[0], 200, "a patch of the series")
    same(call(cluster, token, "PATCH", f"{named}0", {})[0], 404, "to count an Event that is not there")
    absent = body | {"metadata": {"name": "x", "namespace": "nowhere"}, "regarding": body["regarding"] | {"namespace": "nowhere"}}
    same(call(cluster, token, "POST", path.replace("/shop/", "/nowhere/"), absent)[0], 404, "a namespace that is not there")
    terminating(cluster, token, path, body)


def terminating(cluster, token, path, body):
    """A namespace on its way out: the right is there, and the answer is 403 all the same."""
    cluster.namespace("going")
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stays", "namespace": "going", "finalizers": ["e2e.keyferry/stays"]}})
    cluster.kubectl("delete", "namespace", "going", "--wait=false")
    going = body | {"metadata": {"name": "x", "namespace": "going"}, "regarding": body["regarding"] | {"namespace": "going"}}
    status, said = call(cluster, token, "POST", path.replace("/shop/", "/going/"), going)
    causes = [cause["reason"] for cause in said["details"]["causes"]]
    same((status, causes), (403, ["NamespaceTerminating"]), "a namespace that is being removed")
    cluster.kubectl("-n", "going", "patch", "configmap", "stays", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


def call(cluster, token, method, path, body=None):
    """One call of the API server: its status, and the object that it answers."""
    context = ssl.create_default_context(cafile=cluster.node.pki / "ca.crt")
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    request = urllib.request.Request(f"https://{nodes.API_SERVICE}{path}", method=method, data=None if body is None else json.dumps(body).encode(),
                                     headers={"Authorization": f"Bearer {token}", "Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
