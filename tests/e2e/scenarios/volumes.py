"""Two classes in one Pod, one class's name in two namespaces, subPath, an init container, a StatefulSet's Pod that comes back, and a
container that is not root and owns its files."""

from cluster import pod, same, secret_provider_class, volume

WHOLE = '- secret: {namespace}/app\n  fields: "*"\n  path: ./\n'


def run(cluster):
    for namespace in ["left", "right"]:
        cluster.namespace(namespace)
        cluster.set_secret(f"{namespace}/app", whose=namespace)
        cluster.apply(secret_provider_class("app", namespace, WHOLE.format(namespace=namespace)))
    cluster.set_secret("left/second", other="second")
    cluster.apply(secret_provider_class("second", "left", "- secret: left/second\n  field: other\n"))
    cluster.apply(
        two_classes(), pod("same-name", "left", "app"), pod("same-name", "right", "app"), sub_path(), init_container(), stateful_set(),
    )
    cluster.ready("left", "two-classes", "same-name", "sub-path", "init-container", seconds=90)
    cluster.ready("right", "same-name")

    same(cluster.read("left", "two-classes", "/secrets/whose"), "left", "the first class's file")
    same(cluster.read("left", "two-classes", "/second/other"), "second", "the second class's file")
    for namespace in ["left", "right"]:
        same(cluster.read(namespace, "same-name", "/secrets/whose"), namespace, f"the class `app` of {namespace}")
    same(cluster.read("left", "sub-path", "/etc/app/whose"), "left", "a file mounted by subPath")
    same(cluster.inside("left", "sub-path", "ls", "/etc/app").split(), ["whose"], "what is beside a subPath")
    same(cluster.read("left", "init-container", "/work/copied"), "left", "what the init container copied")

    same(cluster.until("the StatefulSet's Pod", lambda: ready(cluster, "stateful-0")), True, "ready")
    before = cluster.get("pod", "stateful-0", "left")["metadata"]["uid"]
    version = status_version(cluster, "stateful-0")
    cluster.delete("left", "pod/stateful-0")
    cluster.until("the StatefulSet's Pod is back", lambda: (cluster.get("pod", "stateful-0", "left") or {"metadata": {"uid": before}})["metadata"]["uid"] != before)
    cluster.until("and is ready", lambda: ready(cluster, "stateful-0"))
    same(cluster.read("left", "stateful-0", "/secrets/whose"), "left", "its file")
    same(status_version(cluster, "stateful-0"), version, "its secret's version, for another Pod of the same name")
    for namespace in ["left", "right"]:
        cluster.drop_namespace(namespace)


def two_classes():
    both = pod("two-classes", "left", "app")
    both["spec"]["volumes"].append(volume("second", "second"))
    both["spec"]["containers"][0]["volumeMounts"].append({"name": "second", "mountPath": "/second", "readOnly": True})
    return both


def sub_path():
    one = pod("sub-path", "left", "app")
    one["spec"]["containers"][0]["volumeMounts"] = [{"name": "secrets", "mountPath": "/etc/app/whose", "subPath": "whose", "readOnly": True}]
    return one


def init_container():
    one = pod("init-container", "left", "app")
    mounts = [{"name": "secrets", "mountPath": "/secrets", "readOnly": True}, {"name": "work", "mountPath": "/work"}]
    first = {**one["spec"]["containers"][0], "name": "first", "command": ["cp", "/secrets/whose", "/work/copied"], "volumeMounts": mounts}
    one["spec"]["initContainers"] = [first]
    one["spec"]["containers"][0]["volumeMounts"] = mounts[1:]
    one["spec"]["volumes"].append({"name": "work", "emptyDir": {}})
    return one


def stateful_set():
    template = pod("", "left", "app")
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "stateful", "namespace": "left"},
        "spec": {
            "serviceName": "stateful",
            "selector": {"matchLabels": {"app": "stateful"}},
            "template": {"metadata": {"labels": {"app": "stateful"}}, "spec": template["spec"]},
        },
    }


def ready(cluster, name):
    found = cluster.get("pod", name, "left")
    conditions = found["status"].get("conditions", []) if found else []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def status_version(cluster, name):
    statuses = cluster.get("secretproviderclasspodstatuses", namespace="left")
    return next(item["status"]["objects"][0]["version"] for item in statuses if item["status"]["podName"] == name)
