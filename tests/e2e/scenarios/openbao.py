"""OpenBao with real logins: the examples, classes of the peers, a database user for each Pod that Keyferry keeps and revokes; the store goes down, and comes back.
"""

import json
import re
import time

import node as nodes
import stores
from cluster import EXAMPLES, Failed, daemon_pids, failed_mount, pod, same, secret_provider_class
from page import message

# It waits for minutes, and has a daemon with another configuration: so it has a node of its own.
LANE = "openbao"

# The peers' sockets, as in the comment of the overlay's configuration.
PEERS = ("# providers: [keyferry, vault, openbao]", "providers: [keyferry, vault, openbao]")
DATABASE = "- secret: database/creds/shop\n  field: username\n- secret: database/creds/shop\n  field: password\n"

EXPECTED = {
    "openbao-static": {"username": "0644", "password": "0444", "first-password": "0644"},
    "openbao-database": {"db/username": "0644", "db/password": "0644"},
    "openbao-certificate": {"tls.crt": "0644", "tls.key": "0644", "ca.crt": "0644"},
    "openbao-vault-class": {"db/password": "0644", "username": "0444", "db.json": "0644"},
}


def run(cluster):
    bao, postgresql = stores.OpenBao(cluster), stores.PostgreSQL(cluster)
    postgresql.start()
    bao.start()
    stores.install(cluster, bao, PEERS, postgresql=postgresql)
    # The page's first Pod has its secret from the file vault, which this overlay removes.
    cluster.delete("shop", "pod/first", "--wait=false")
    examples(cluster, bao, postgresql)
    peers(cluster, bao)
    another_login(cluster, bao)
    users = users_are_kept(cluster, postgresql)
    users_are_given_back(cluster, bao, postgresql, users)
    store_down(cluster, bao)


# === The examples, and the peers ===


def examples(cluster, bao, postgresql):
    names = sorted(path.stem for path in EXAMPLES.glob("openbao-*.yaml"))
    same(names, sorted(EXPECTED), "the examples of a store over the network")
    cluster.apply(*(EXAMPLES / f"{name}.yaml" for name in names))
    cluster.ready("shop", *names)
    for name in names:
        seen = {path: mode for path, (mode, _, _) in cluster.files("shop", name).items()}
        same(seen, EXPECTED[name], f"{name}: the files and their modes")
    password = bao.bao("kv", "get", "-mount=kv", "-field=password", "shop/db").strip()
    static_secrets(cluster, password)
    certificate_is_one(cluster)
    user = login(cluster, "openbao-database", "/secrets/db")
    same(postgresql.lets_in(*user), True, "whether the database lets the Pod's user in")
    whole = json.loads(cluster.read("shop", "openbao-vault-class", "/secrets/db.json"))
    same(whole["data"]["data"], {"username": "app", "password": password}, "the whole response in db.json")
    same(cluster.read("shop", "openbao-vault-class", "/secrets/db/password"), password, "the file of the class of vault-csi-provider")
    if not reviews(cluster):
        raise Failed("OpenBao has asked the API server about no token")


def static_secrets(cluster, password):
    for path in ["password", "first-password"]:
        same(cluster.read("shop", "openbao-static", f"/secrets/{path}"), password, f"openbao-static: the file {path}")
    line = cluster.audit("shop", "openbao-static")[0]
    same((line["outcome"], line["provider"], line["verified"], line["class"]), ("delivered", "keyferry", True, "openbao-static"), "the audit line")
    objects = [("username", "username", None), ("password", "password", None), ("password", "first-password", "1")]
    expected = [{"object": number, "backend": "bao", "secret": "kv/data/shop/db", **({"pinned": pinned} if pinned else {}), "field": field, "file": file,
                 "version": "1", "outcome": "delivered", "rule": 1} for number, (field, file, pinned) in enumerate(objects, 1)]
    same([{key: value for key, value in entry.items() if key != "source"} for entry in line["objects"]], expected, "the objects of the audit line")


def certificate_is_one(cluster):
    """The three files are of one certificate: its key is that key, and its issuer that CA."""
    for name in ["tls.crt", "tls.key", "ca.crt"]:
        (cluster.folder / name).write_text(cluster.read("shop", "openbao-certificate", f"/secrets/{name}"))
    cluster.bash("openssl verify -CAfile ca.crt -verify_hostname web.shop.svc tls.crt")
    cluster.bash('test "$(openssl x509 -in tls.crt -noout -pubkey)" = "$(openssl pkey -in tls.key -pubout)"')


def peers(cluster, bao):
    """Each socket is root's alone, and serves the classes of its provider as they are."""
    sockets = {path.name: oct(path.stat().st_mode & 0o777) for path in nodes.PROVIDERS.iterdir()}
    same(sockets, {"keyferry.sock": "0o600", "openbao.sock": "0o600", "vault.sock": "0o600"}, "the sockets and their modes")
    objects = "- objectName: password\n  secretPath: kv/data/shop/db\n  secretKey: password\n"
    for provider in ["vault", "openbao"]:
        name = f"peer-{provider}"
        cluster.apply(secret_provider_class(name, "shop", objects, provider=provider, roleName="csi"), pod(name, "shop", name))
    cluster.ready("shop", "peer-vault", "peer-openbao")
    for provider in ["vault", "openbao"]:
        same(cluster.read("shop", f"peer-{provider}", "/secrets/password"), bao.bao("kv", "get", "-mount=kv", "-field=password", "shop/db").strip(),
             f"the file of a class of the provider {provider}")
        line = cluster.audit("shop", f"peer-{provider}")[0]
        same((line["provider"], line["outcome"], line["verified"]), (provider, "delivered", True), f"the audit line of peer-{provider}")


def another_login(cluster, bao):
    """The store's role does not have a ServiceAccount: the event says so. Once the role has it, the Pod starts."""
    cluster.namespace("shop", "web", "job")
    cluster.apply(secret_provider_class("users", "shop", DATABASE), pod("job", "shop", "users", service_account="job"))
    event = cluster.waits_with("shop", "job", "BackendLoginFailed")
    one = message("BackendLoginFailed", "service account name not authorized").split("object 1 (db/username): ")[1]
    expected = f"BackendLoginFailed: object 1 (username): {one}; object 2 (password): {one}"
    same(event, failed_mount("FailedPrecondition", "shop", "job", expected), "the event of another ServiceAccount")
    bao.bao("write", "auth/kubernetes/role/csi", "bound_service_account_names=web,job", "bound_service_account_namespaces=shop", "audience=bao",
            "token_policies=shop", "token_ttl=1h")
    cluster.ready("shop", "job", seconds=130)


# === A database user for each Pod ===


def users_are_kept(cluster, postgresql):
    """After `kill -9` of the daemon and after a roll-out, no Pod gets another user, and the store makes none. Returns each Pod's."""
    cluster.apply(pod("user-1", "shop", "users"), pod("user-2", "shop", "users"))
    cluster.ready("shop", "user-1", "user-2")
    users = logins(cluster)
    same(len({user for user, _ in users.values()}), 4, f"the different users of four Pods: {users.keys()}")
    same(postgresql.users(), {user for user, _ in users.values()}, "the database's users")
    for name, user in users.items():
        same(postgresql.lets_in(*user), True, f"whether the database lets the user of {name} in")
    for trouble in [killed, rolled_out]:
        trouble(cluster)
        mounted_again(cluster, users)
        same(logins(cluster), users, f"the Pods' logins after the daemon was {trouble.__name__}")
        same(postgresql.users(), {user for user, _ in users.values()}, f"the database's users after the daemon was {trouble.__name__}")
    return users


def logins(cluster):
    folders = {"openbao-database": "/secrets/db", "job": "/secrets", "user-1": "/secrets", "user-2": "/secrets"}
    return {name: login(cluster, name, folder) for name, folder in folders.items()}


def login(cluster, name, folder):
    return tuple(cluster.inside("shop", name, "cat", f"{folder}/{file}") for file in ["username", "password"])


def killed(cluster):
    before = set(cluster.kill_daemon())
    cluster.until("kubelet starts the daemon again", lambda: set(daemon_pids()) - before, 60)
    cluster.rolled_out()


def rolled_out(cluster):
    cluster.kubectl("-n", "keyferry", "rollout", "restart", "daemonset/keyferry")
    cluster.rolled_out()


def mounted_again(cluster, names):
    """Waits until the new process has mounted each Pod's volume: its audit line says that it asked the store for nothing new."""
    def mounted():
        for name in names:
            cluster.look_again("shop", name)
        return all(in_this_process(cluster, name) for name in names)

    cluster.until("the daemon mounts the running Pods' volumes again", mounted, 150, every=2)
    for name in names:
        line = in_this_process(cluster, name)
        same([(entry["outcome"], entry["source"]) for entry in line["objects"]], [("delivered", "fresh")] * 2, f"the audit line of {name}")


def in_this_process(cluster, name):
    """The last audit line of a Pod since the daemon's process started. `kubectl logs` without --previous shows no other's."""
    lines = cluster.kubectl("-n", "keyferry", "logs", "daemonset/keyferry", "--tail=-1").splitlines()
    found = [line for line in map(json.loads, filter(lambda line: line.startswith("{"), lines)) if line.get("event") == "mount" and line.get("pod") == name]
    return found[-1] if found else None


def users_are_given_back(cluster, bao, postgresql, users):
    """A Pod's user goes with the Pod, and a login's token with the login's last Pod; the others stay. Meanwhile a changed secret gets to its Pod."""
    same(bao.tokens("job"), 1, "the store tokens of shop/job")
    first = bao.bao("kv", "get", "-mount=kv", "-field=password", "shop/db").strip()
    bao.bao("kv", "put", "-mount=kv", "shop/db", "username=app", "password=second")
    cluster.delete("shop", "pod/user-1", "pod/job")
    started = time.monotonic()
    gone = {users["user-1"][0], users["job"][0]}
    cluster.until("the users of deleted Pods go", lambda: not gone & postgresql.users(), 240, every=1)
    cluster.remark(f"database users are gone {time.monotonic() - started:.0f} s after their Pods")
    stay = {users[name] for name in ["openbao-database", "user-2"]}
    same(postgresql.users(), {user for user, _ in stay}, "the users that stay")
    for user in stay:
        same(postgresql.lets_in(*user), True, "whether the database lets the user of a running Pod in")
    same(postgresql.lets_in(*users["user-1"]), False, "whether the database lets the user of a deleted Pod in")
    cluster.until("the store token of the deleted Pod's login goes", lambda: not bao.tokens("job"), 30, every=1)

    def changed():
        cluster.look_again("shop", "openbao-static")
        return cluster.read("shop", "openbao-static", "/secrets/password") == "second"

    cluster.until("the changed secret is in the file", changed, 150, every=1)
    same(cluster.read("shop", "openbao-static", "/secrets/first-password"), first, "the file of the pinned version")


def reviews(cluster):
    """How often the API server was asked to review a token. Keyferry has the cluster's keys, and asks for none."""
    text = cluster.kubectl("get", "--raw", "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("apiserver_request_total{") and 'resource="tokenreviews"' in line)


# === The store down ===


def store_down(cluster, bao):
    """What a new Pod's event says while the store is frozen, away and sealed; a running Pod keeps its files; a new Pod starts with what the node has read
    before; and all start once the store is back."""
    bao.bao("kv", "put", "-mount=kv", "shop/late", "password=late")
    cluster.apply(secret_provider_class("late", "shop", "- secret: kv/data/shop/late\n  field: password\n"))
    # A frozen store takes a connection, and does not go on with it. Keyferry gives up an open one first, when it answers no ping.
    waits(cluster, "frozen", bao.freeze, "none could be made in 5 s|keep-alive timed out")
    waits(cluster, "refused", bao.kill, "Connection refused")
    starts_without_the_store(cluster)
    waits(cluster, "sealed", bao.start_sealed, "is sealed")
    same(cluster.read("shop", "openbao-static", "/secrets/password"), "second", "the file of a running Pod while the store is down")
    bao.unseal()
    started = time.monotonic()
    cluster.ready("shop", "frozen", "refused", "sealed", seconds=150)
    cluster.remark(f"Pods that waited have started {time.monotonic() - started:.0f} s after the store is back")
    for name in ["frozen", "refused", "sealed"]:
        same(cluster.read("shop", name, "/secrets/password"), "late", f"the file of {name}")


def waits(cluster, name, trouble, why):
    """Starts the trouble, and a Pod with a secret that nothing has asked for before. In time its event says why. Keyferry asks the store now and then."""
    trouble()
    cluster.apply(pod(name, "shop", "late"))
    start = failed_mount("FailedPrecondition", "shop", name, "BackendUnavailable: object 1 (password): bao/kv/data/shop/late: ")
    expected = re.compile(rf"{re.escape(start)}(not asked[^:]*: )?.*({why})")
    cluster.until(f"an event of shop/{name} like {expected.pattern}", lambda: any(map(expected.match, cluster.events("shop", name))), 130)


def starts_without_the_store(cluster):
    """With cache.stale, as the overlay has it: a Pod of the same ServiceAccount starts, and its audit line says with what."""
    started = time.monotonic()
    example = cluster.get("pod", "openbao-static", "shop")
    cluster.apply(pod("started", "shop", example["spec"]["volumes"][0]["csi"]["volumeAttributes"]["secretProviderClass"]))
    cluster.ready("shop", "started", seconds=30)
    cluster.remark(f"a Pod has started {time.monotonic() - started:.0f} s after it was made, without the store")
    same(cluster.read("shop", "started", "/secrets/password"), "second", "the file of a Pod that starts without the store")
    line = cluster.audit("shop", "started")[-1]
    # `fresh` if the last answer is still younger than cache.fresh.
    same({entry["source"] for entry in line["objects"]} - {"fresh", "stale"}, set(), "other sources in the audit line of a Pod that starts without the store")
