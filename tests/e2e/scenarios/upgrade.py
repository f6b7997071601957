"""From version 0.1.0 to this one, back, and here again under `kubectl drain`, while Pods start: no FailedMount, no other credential.
"""

import shutil
import time

import node as nodes
import stores
import tools
from cluster import Failed, pod, same, secret_provider_class
from openbao import DATABASE, mounted_again

# It has a daemon of another version, and a store.
LANE = "upgrade"
NEEDS_FORMER = True

PODS = 50
STATIC = "- secret: kv/data/shop/db\n  field: password\n  path: static\n"
SHARED = "- secret: database/creds/shop\n  field: username\n  lease: shared\n- secret: database/creds/shop\n  field: password\n  lease: shared\n"
OURS, THEIRS = "bao-overlay", "former-overlay"


def run(cluster):
    bao, postgresql = stores.OpenBao(cluster), stores.PostgreSQL(cluster)
    postgresql.start()
    bao.start()
    # It applies this version's overlay as well, which `OURS` names from then on.
    stores.install(cluster, bao, postgresql=postgresql)
    start_from_the_former(cluster)
    cluster.apply(secret_provider_class("login", "shop", STATIC + DATABASE), secret_provider_class("shared", "shop", SHARED),
                  secret_provider_class("users", "shop", DATABASE))
    users = [f"user-{number}" for number in range(3)]
    cluster.apply(*(pod(name, "shop", "users") for name in users), *(pod(name, "shop", "shared") for name in ["shared-1", "shared-2"]))
    cluster.ready("shop", *users, "shared-1", "shared-2")
    before = seen(cluster, users)
    same(len({login["username"] for login, _ in before.values()}), 3, "the different users of three Pods")
    theirs = shared_login(cluster)

    upgrades(cluster, users, before, postgresql)
    ours = a_shared_login_is_another(cluster, theirs, postgresql)
    rolls_back(cluster, users, before)
    after = a_shared_login_is_another(cluster, ours, postgresql)
    upgrades_and_drains(cluster, postgresql, after, ours)


# === The steps ===


def start_from_the_former(cluster):
    """A node on which version 0.1.0 was the first."""
    cluster.delete("shop", "pod/first", "pod/openbao-static")
    cluster.kubectl("-n", "keyferry", "delete", "daemonset", "keyferry", "--wait=true")
    cluster.until("no daemon runs", lambda: not cluster.daemons())
    for path in nodes.STATE.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    stores.overlay_of_our_own(cluster, overlay=cluster.former / "deploy/manifests/overlays/openbao", name=THEIRS,
                              images=[{"name": tools.IMAGE.rsplit(":", 1)[0], "newTag": tools.FORMER_IMAGE.rsplit(":", 1)[1]}])
    apply(cluster, THEIRS)
    same(images(cluster), {tools.FORMER_IMAGE}, "the images at the start")


def upgrades(cluster, users, before, postgresql):
    """50 Pods start while the new version comes."""
    with_pods(cluster, "upgraded", lambda: apply(cluster, OURS))
    same(images(cluster), {tools.IMAGE}, "the images after the upgrade")
    keeps(cluster, users, before, "the upgrade")
    of_pods = {login["username"] for login, _ in seen(cluster, [f"upgraded-{number}" for number in range(PODS)]).values()}
    same(len(of_pods), PODS, "the different users of the Pods that started meanwhile")
    unused = postgresql.users() - of_pods - {login["username"] for login, _ in before.values()}
    same(len(unused) <= 2, True, f"whether no user was made in vain: {unused}, of which the shared ones are two at most")


def rolls_back(cluster, users, before):
    """As docs/install.md says: image and configuration go back together, since the ConfigMap's name is a hash of its content."""
    cluster.kubectl("-n", "shop", "delete", "pods", "--selector=e2e=load", "--grace-period=1")
    with_pods(cluster, "back", lambda: roll_out(cluster, "undo"))
    same(images(cluster), {tools.FORMER_IMAGE}, "the images after `kubectl rollout undo`")
    keeps(cluster, users, before, "the way back")


def upgrades_and_drains(cluster, postgresql, theirs, ours):
    """The node is drained in the middle of the upgrade. Keyferry comes all the same, and revokes what the drained Pods had."""
    gone = postgresql.users()
    cluster.kubectl("apply", "-k", cluster.folder / OURS)
    cluster.kubectl("drain", nodes.NODE, "--ignore-daemonsets", "--force", "--grace-period=1", "--timeout=120s", timeout=150)
    cluster.rolled_out(120)
    same(images(cluster), {tools.IMAGE}, "the images after the drain")
    cluster.kubectl("uncordon", nodes.NODE)
    cluster.apply(pod("after", "shop", "users"))
    cluster.ready("shop", "after", seconds=120)
    started = time.monotonic()
    after = seen(cluster, ["after"])["after"][0]["username"]
    cluster.until("the users of drained Pods go", lambda: postgresql.users() == {after}, 300, every=2)
    cluster.remark(f"{len(gone)} users are gone {time.monotonic() - started:.0f} s after the drain")


# === Looking ===


def apply(cluster, overlay):
    cluster.kubectl("apply", "-k", cluster.folder / overlay)
    cluster.rolled_out(120)


def roll_out(cluster, verb):
    cluster.kubectl("-n", "keyferry", "rollout", verb, "daemonset/keyferry")
    cluster.rolled_out(120)


def with_pods(cluster, name, trouble):
    """50 Pods start while the trouble is under way. All get their files, and no mount fails."""
    names = [f"{name}-{number}" for number in range(PODS)]
    labelled = [pod(each, "shop", "login") for each in names]
    for each in labelled:
        each["metadata"]["labels"] = {"e2e": "load"}
    started = time.monotonic()
    cluster.apply({"apiVersion": "v1", "kind": "List", "items": labelled})
    trouble()
    cluster.ready("shop", *names, seconds=240)
    cluster.remark(f"{name}: {PODS} Pods ready after {time.monotonic() - started:.0f} s")
    same(cluster.failed_mounts("shop"), {}, f"{name}: the FailedMount events")
    for each, (files, _) in seen(cluster, names).items():
        same((sorted(files), all(files.values())), (["password", "static", "username"], True), f"{name}: the files of {each}")


def keeps(cluster, users, before, what):
    """The credentials and versions of Pods that were there before stay the same, also after the next mount."""
    mounted_again(cluster, users)
    same(seen(cluster, users), before, f"the logins and their versions after {what}")


def seen(cluster, names):
    """What the volumes of Pods hold, as the node has it, and the versions of their status objects. `kubectl exec` would take too long."""
    uids = {item["metadata"]["name"]: item["metadata"]["uid"] for item in cluster.get("pods", namespace="shop")}
    versions = {item["status"]["podName"]: {each["id"]: each["version"] for each in item["status"]["objects"]}
                for item in cluster.get("secretproviderclasspodstatuses", namespace="shop")}
    return {name: (contents(uids[name]), versions[name]) for name in names}


def contents(uid):
    folder = nodes.KUBELET / f"pods/{uid}/volumes/kubernetes.io~csi/secrets/mount"
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith("..")}


def shared_login(cluster):
    one, other = (login for login, _ in seen(cluster, ["shared-1", "shared-2"]).values())
    same(one, other, "the login that two Pods share")
    return one


def a_shared_login_is_another(cluster, former, postgresql):
    """At the next mount both Pods get another shared login. The former one still works, for connections that are open."""
    def changed():
        for name in ["shared-1", "shared-2"]:
            cluster.look_again("shop", name)
        logins = [login for login, _ in seen(cluster, ["shared-1", "shared-2"]).values()]
        return former not in logins and logins[0] == logins[1]

    cluster.until("the Pods with a shared login have another", changed, 150, every=2)
    for login in [former, shared_login(cluster)]:
        same(postgresql.lets_in(login["username"], login["password"]), True, "whether the database lets in by the former and the new shared login")
    return shared_login(cluster)


def images(cluster):
    return {container["image"] for item in cluster.daemons() for container in item["status"]["containerStatuses"]}
