"""Lets well-known programs read what Keyferry renders, and compares their answers with readers.json. `make readers` runs it.

- `recipes`: the examples of docs/cookbook.md, rendered with the values of cookbook.json by `keyferry render`, which is the daemon's own code. Each
  program must read exactly these values back. tests/it/golden/readers.rs renders them again and compares every byte.
- `drawn`: a thousand random values in each format, and in each filter that quotes. The golden file has the hash of each rendered file.

GOLDEN=write writes readers.json and drawn.json instead of comparing.
"""

import base64
import hashlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TOOLS = ROOT / ".tools"
READERS = TOOLS / "readers"
KEYFERRY = ROOT / "target/debug/keyferry"
DRAWN = 1000

programs, libraries = (READERS / "path").read_text().split("\n")[:2]
# The machine's own programs come first. The programs see nothing else of its environment.
ENVIRONMENT = {"PATH": f"{os.environ['PATH']}:/usr/sbin:{programs}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
if libraries:
    ENVIRONMENT["LD_LIBRARY_PATH"] = libraries

sys.path.insert(0, str(READERS / "python"))

NODE_DOTENV = "console.log(JSON.stringify(require(process.argv[1]).parse(require('fs').readFileSync(process.argv[2]))))"
NODE_JSON = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(process.argv[1], 'utf8'))))"


def run(*command, check=True, **more):
    more = {"env": ENVIRONMENT, "capture_output": True, "timeout": 60, **more}
    done = subprocess.run([str(word) for word in command], **more)
    if check and done.returncode != 0:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done


def output(*command, **more):
    return run(*command, **more).stdout.decode()


# === What Keyferry renders ===


def render(class_file, values_file, folder):
    """The files of a class, as a volume in `folder`, and as texts."""
    command = [KEYFERRY, "render", "-f", class_file, "--values", values_file]
    run(*command, "--to", folder)
    files = json.loads(output(*command, "-o", "json"))["files"]
    for file in files:
        assert (folder / file["path"]).read_bytes() == file["text"].encode(), file["path"]
    return {file["path"]: file["text"] for file in files}


def class_of(objects):
    """A class of these objects, as JSON, which is YAML."""
    parameters = {"objects": json.dumps(objects)}
    metadata = {"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": {"name": "drawn"}}
    return json.dumps({**metadata, "spec": {"provider": "keyferry", "parameters": parameters}})


# === The cookbook: what each program reads of its recipe, by secret and field ===


def spring(folder):
    properties, yaml = java(f"spring-properties={folder}/application.properties", f"spring-yaml={folder}/application.yaml")
    plain = java(f"properties={folder}/application.properties")[0]
    assert properties == yaml == plain, (properties, yaml, plain)
    host, port = properties["spring.datasource.url"].removeprefix("jdbc:postgresql://").removesuffix("/shop").split(":")
    login = {"shop/db.username": properties["spring.datasource.username"], "shop/db.password": properties["spring.datasource.password"]}
    return {"Spring Boot": {**login, "shop/db.host": host, "shop/db.port": port}}


def node(folder):
    import urllib.parse

    config = json.loads(output("node", "-e", NODE_JSON, folder / "config.json"))
    read = {f"shop/db.{name}": config[name] for name in ("username", "password", "host", "port")}
    answers = {"JSON.parse": {**read, "shop/api.token": config["token"]}}
    by_shell = output("sh", "-c", 'set -a; . "$0"; printf "%s\\n%s" "$DB_URL" "$API_TOKEN"', folder / ".env").split("\n", 1)
    for reader, (url, token) in {
        "dotenv": tuple(node_dotenv(folder / ".env")[name] for name in ("DB_URL", "API_TOKEN")),
        "python-dotenv": tuple(python_dotenv(folder / ".env")[name] for name in ("DB_URL", "API_TOKEN")),
        "sh": tuple(by_shell),
        "keyferry exec": tuple(executed(folder / ".env")[name] for name in ("DB_URL", "API_TOKEN")),
    }.items():
        parts = urllib.parse.urlsplit(url)
        login = {"shop/db.username": urllib.parse.unquote(parts.username), "shop/db.password": urllib.parse.unquote(parts.password)}
        answers[reader] = {**login, "shop/db.host": parts.hostname, "shop/db.port": str(parts.port), "shop/api.token": token}
    return answers


def nginx(folder):
    """It serves the chain, and its key fits: a client gets both through a socket."""
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        listen = work / "s"
        (work / "nginx.conf").write_text(
            f"daemon off; pid {work}/pid; error_log {work}/log; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c; uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;\n"
            f"server {{ listen unix:{listen} ssl; ssl_certificate {folder}/tls/chain.pem; ssl_certificate_key {folder}/tls/key.pem; }} }}\n"
        )
        command = ["nginx", "-p", work, "-e", work / "log", "-c", work / "nginx.conf"]
        run(*command, "-t")
        server = subprocess.Popen([str(word) for word in command], env=ENVIRONMENT)
        try:
            until = time.monotonic() + 20
            while not listen.exists() and time.monotonic() < until:
                time.sleep(0.05)
            shown = run("openssl", "s_client", "-unix", listen, "-showcerts", "-servername", "shop.example", input=b"", check=False).stdout.decode()
        finally:
            server.terminate()
            server.wait(20)
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    chain = "".join(f"{begin}{part.split(end)[0]}{end}\n" for part in shown.split(begin)[1:])
    key = output("openssl", "pkey", "-in", folder / "tls/key.pem")
    printed = output("keytool", "-printcert", "-rfc", "-file", folder / "tls/chain.pem").replace("\r", "")
    java_chain = "".join(f"{begin}{part.split(end)[0]}{end}\n" for part in printed.split(begin)[1:])
    assert java_chain == chain, printed
    return {"nginx": {"shop/tls.tls.crt": chain}, "openssl": {"shop/tls.tls.key": key}, "keytool": {"shop/tls.tls.crt": java_chain}}


def kafka(folder):
    (read,) = java(f"kafka={folder}/client.properties")
    login = {"shop/kafka.username": read["username"], "shop/kafka.password": read["password"]}
    return {"Kafka": {**login, "shop/tls.tls.key": read["key"], "shop/tls.tls.crt": read["chain"], "shop/tls.ca.crt": read["ca"]}}


def pgpass(folder):
    """libpq sends the password to a server that asks for it in the clear."""
    values = VALUES["shop/db"]
    # A volume's file is a link. libpq looks at the mode of the link's target.
    seen = {}
    with tempfile.TemporaryDirectory() as work:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{work}/.s.PGSQL.{values['port']}")
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                length = int.from_bytes(stream.read(4), "big")
                words = stream.read(length - 4)[4:].split(b"\0")
                seen["username"] = dict(zip(words[::2], words[1::2]))[b"user"].decode()
                connection.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
                assert stream.read(1) == b"p"
                length = int.from_bytes(stream.read(4), "big")
                seen["password"] = stream.read(length - 4).rstrip(b"\0").decode()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        environment = {**ENVIRONMENT, "PGPASSFILE": str(folder / ".pgpass"), "PGCONNECT_TIMEOUT": "10"}
        # The file has a line for this host, and psql reaches it by a socket: the file goes by `host`, the connection by `hostaddr`, which a socket does not have.
        line = (folder / ".pgpass").read_text()
        assert line.startswith(f"{values['host']}:"), line
        by_socket = pathlib.Path(work) / "pass"
        by_socket.write_text(line.replace(values["host"], work, 1))
        by_socket.chmod(0o400)
        environment["PGPASSFILE"] = str(by_socket)
        run("psql", "-h", work, "-p", values["port"], "-U", values["username"], "-d", "shop", "-c", "select 1", env=environment, check=False)
        server.join(10)
        listener.close()
    assert (folder / ".pgpass").stat().st_mode & 0o777 == 0o400
    return {"psql": {"shop/db.username": seen.get("username"), "shop/db.password": seen.get("password")}}


def ssh(folder):
    """ssh-keygen makes the public half of the key, and finds the host."""
    key = folder / ".ssh/id"
    # ssh refuses a key of its own user that others can read.
    key.resolve().chmod(0o400)
    public = output("ssh-keygen", "-y", "-f", key)
    known = output("ssh-keygen", "-F", "git.example", "-f", folder / ".ssh/known_hosts").splitlines()[-1]
    return {"ssh-keygen": {"shop/ssh.public": public.strip(), "shop/ssh.known_hosts": known}}


def docker_config(folder):
    from docker import auth

    login = auth.load_config(str(folder / "config.json")).resolve_authconfig("registry.example")
    return {"docker (Python)": {"shop/registry-login.username": login["username"], "shop/registry-login.password": login["password"]}}


def git_credentials(folder):
    with tempfile.TemporaryDirectory() as work:
        helper = f"credential.helper=store --file {folder}/.git-credentials"
        environment = {**ENVIRONMENT, "HOME": work, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        answer = output("git", "-c", helper, "credential", "fill", input=b"protocol=https\nhost=git.example\n\n", env=environment, cwd=work)
    read = dict(line.split("=", 1) for line in answer.splitlines())
    return {"git": {"shop/git.username": read["username"], "shop/git.password": read["password"]}}


RECIPES = {
    "docker-config": docker_config,
    "git-credentials": git_credentials,
    "kafka": kafka,
    "nginx": nginx,
    "node": node,
    "pgpass": pgpass,
    "spring": spring,
    "ssh": ssh,
}


# === Readers that several recipes have ===


def java(*questions):
    return [json.loads(line) for line in output("java", "-cp", f"{READERS}/java:{READERS}/jars/*", "Readers", *questions).splitlines()]


def node_dotenv(path):
    return json.loads(output("node", "-e", NODE_DOTENV, READERS / "dotenv", path))


def python_dotenv(path):
    import dotenv

    return dict(dotenv.dotenv_values(path))


def executed(path):
    """The variables of a command that `keyferry exec` has started."""
    environ = run(KEYFERRY, "exec", "--env-file", path, "--", "cat", "/proc/self/environ").stdout
    return dict(pair.decode().split("=", 1) for pair in environ.split(b"\0")[:-1])


def sourced(path, names, program="sh"):
    """The variables of a file that a shell has read. It runs nothing, and says nothing."""
    script = 'cd "$1"; . "$0"; ' + "".join(f'printf "%s\\0" "${name}";' for name in names)
    with tempfile.TemporaryDirectory() as work:
        file = pathlib.Path(work) / "script"
        file.write_text(script)
        done = run(program, "-c", f'. "{file}"', path, work)
        assert done.stderr == b"" and os.listdir(work) == ["script"], (done.stderr, os.listdir(work))
    return dict(zip(names, done.stdout.decode().split("\0")))


# === Random values ===

PIECES = [
    "", " ", "  ", "a", "Z", "0", "'", '"', "`", "\\", "\\\\", "\\n", "\n", "\t", "#", " #", "$", "$HOME", "${", "}", "$(touch ran)", "`touch ran`", "!", "=", ":", ": ", "- ", "*", "?",
    "&", "|", ">", "<", ";", "%", "%41", "@", "/", ",", "[", "]", "{", "{{", "(", ")", "~", "^", "no", "null", "1e3", "0o17", "ö", "€", "日本", "🔑", "\u00a0", "\u2028", "\ufeff",
    "\u0085", "\x01", "\x7f", "\r", "\r\n", "-----BEGIN", "it's", "export A=1", "<<", "---",
]


def drawn():
    """Always the same."""
    draw = random.Random("keyferry")
    return ["".join(draw.choice(PIECES) for _ in range(draw.randint(1, 6))) for _ in range(DRAWN)]


def fits_dotenv(value):
    """What the writer of dotenv does not refuse: src/dotenv/write.rs."""
    bare = all(c.isascii() and (c.isalnum() or c in "_./:@%+,=-") for c in value)
    single = "'" not in value and "\\\\" not in value and not value.endswith("\\")
    double = not any(c in value for c in '$`\\"')
    return "\r" not in value and "${" not in value and (bare or single or double)


def fit(values, fits):
    """As many values that fit, drawn from the same ones."""
    draw, fitting = random.Random("more"), [value for value in values if fits(value)]
    while len(fitting) < DRAWN:
        value = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 4)))
        if fits(value):
            fitting.append(value)
    return fitting[:DRAWN]


def read_drawn(values):
    """Renders all values in each form, reads them back, and returns the hash of each file."""
    import yaml

    name = lambda number: f"V{number}"
    named = lambda values: {name(number): value for number, value in enumerate(values)}
    everything, variables = named(values["all"]), named(values["dotenv"])
    names = list(everything)
    quoting = "{% for v in all.list | fromjson %}printf '%s\\0' {{ v | shellquote }}\n{% endfor %}"
    objects = [
        {"secret": "all", "format": "json", "path": "all.json"},
        {"secret": "all", "format": "yaml", "path": "all.yaml"},
        {"secret": "all", "format": "toml", "path": "all.toml"},
        {"secret": "all", "format": "properties", "path": "all.properties"},
        {"secret": "variables", "format": "dotenv", "path": ".env"},
        {"template": quoting, "secrets": {"all": "list"}, "path": "all.sh"},
        {"template": "{% for v in all.list | fromjson %}{{ v | urlencode }}\n{% endfor %}", "secrets": {"all": "list"}, "path": "urls"},
        {"template": "{% for v in all.list | fromjson %}{{ v | b64encode }}\n{% endfor %}", "secrets": {"all": "list"}, "path": "base64"},
        {"template": "{% for v in all.list | fromjson %}- {{ v | squote }}\n{% endfor %}", "secrets": {"all": "lines"}, "path": "squote.yaml"},
    ]
    one_line = values["lines"]
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "class.yaml").write_text(class_of(objects))
        secrets = {"all": everything, "variables": variables, "list": {"list": json.dumps(values["all"])}, "lines": {"list": json.dumps(one_line)}}
        fields = lambda secret: {field: {"text": value} for field, value in secret.items()}
        exported = {"format": "keyferry-export-1", "secrets": {secret: fields(values) for secret, values in secrets.items()}}
        (work / "values.json").write_text(json.dumps(exported))
        folder = work / "volume"
        files = render(work / "class.yaml", work / "values.json", folder)

        properties, snake = java(f"properties={folder}/all.properties", f"snakeyaml={folder}/all.yaml")
        answers = {
            "JSON.parse": (json.loads(output("node", "-e", NODE_JSON, folder / "all.json")), everything),
            "Python's json": (json.loads(files["all.json"]), everything),
            "PyYAML": (yaml.safe_load(files["all.yaml"]), everything),
            "SnakeYAML": (snake, everything),
            "tomllib": (tomllib.loads(files["all.toml"]), everything),
            "Java's Properties": (properties, everything),
            "dotenv": (node_dotenv(folder / ".env"), variables),
            "python-dotenv": (python_dotenv(folder / ".env"), variables),
            "dash": (sourced(folder / ".env", list(variables), "dash"), variables),
            "bash": (sourced(folder / ".env", list(variables), "bash"), variables),
            "keyferry exec": ({name: value for name, value in executed(folder / ".env").items() if name in variables}, variables),
            "urllib": (named(unquoted(files["urls"])), everything),
            "base64": (named(base64.b64decode(line).decode() for line in files["base64"].splitlines()), everything),
            "PyYAML, squote": (named(yaml.safe_load(files["squote.yaml"])), named(one_line)),
        }
        for program in ("dash", "bash"):
            inside = work / program
            inside.mkdir()
            done = run(program, folder / "all.sh", cwd=inside)
            assert done.stderr == b"" and not os.listdir(inside), (program, done.stderr)
            answers[f"{program}, shellquote"] = (named(done.stdout.decode().split("\0")[:-1]), everything)
        for reader, (read, expected) in answers.items():
            wrong = {name: (expected[name], read.get(name)) for name in expected if read.get(name) != expected[name]}
            if wrong or len(read) != len(expected):
                sys.exit(f"{reader} reads other values, {len(wrong)} of {len(expected)}, such as {list(wrong.items())[:3]}")
    hashes = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}
    return {"readers": sorted(answers), "objects": objects, "files": hashes}


def unquoted(text):
    import urllib.parse

    return [urllib.parse.unquote(line, errors="strict") for line in text.splitlines()]


# === All of it ===

VALUES = json.loads((HERE / "cookbook.json").read_text())


def read_recipes():
    recipes = {}
    for example, reader in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            files = render(ROOT / f"deploy/examples/{example}.yaml", HERE / "cookbook.json", folder)
            recipes[example] = {"files": files, "read": reader(folder)}
        for name, read in recipes[example]["read"].items():
            for place, value in read.items():
                secret, field = place.split(".", 1)
                if value != VALUES[secret][field]:
                    sys.exit(f"{example}: {name} reads another value of {place}: {value!r} and not {VALUES[secret][field]!r}")
    return recipes


def main():
    started = time.monotonic()
    write = os.environ.get("GOLDEN") == "write"
    if write:
        values = drawn()
        one_line = lambda value: "'" not in value and not any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\ufeff" for c in value)
        values = {"all": values, "dotenv": fit(values, fits_dotenv), "lines": fit(values, one_line)}
        lists = [f'"{kind}": {json.dumps(values)}' for kind, values in values.items()]
        (HERE / "drawn.json").write_text("{\n" + ",\n".join(lists) + "\n}\n")
    golden = {"recipes": read_recipes(), "drawn": read_drawn(json.loads((HERE / "drawn.json").read_text()))}
    text = json.dumps(golden, indent=2, ensure_ascii=False) + "\n"
    if write:
        (HERE / "readers.json").write_text(text)
    elif (HERE / "readers.json").read_text() != text:
        sys.exit("readers.json has other answers (look at `GOLDEN=write make readers && git diff tests/golden`)")
    read = sum(len(recipe["read"]) for recipe in golden["recipes"].values())
    print(f"{len(golden['recipes'])} recipes read by {read} programs, {DRAWN} drawn values by {len(golden['drawn']['readers'])} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
