"""Asks the programs that read dotenv files what they read, and writes their answers to dotenv.json. `make golden-dotenv` runs it.

`written`: what Keyferry writes. dash, bash, node's dotenv and python-dotenv must read the same bytes, and the shells must run nothing: otherwise this
fails. `read`: what node's dotenv and kubectl read. tests/it/golden/dotenv.rs compares Keyferry with it.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TOOLS = ROOT / ".tools"
KEYFERRY = ROOT / "target/debug/keyferry"
DOTENV = TOOLS / "dotenv-18.0.10"
PYTHON_DOTENV = TOOLS / "python-dotenv-1.2.4"
KUBECTL = TOOLS / "kubectl-1.35.2"

NODE = """
const { parse } = require(process.argv[1])
const texts = JSON.parse(require('fs').readFileSync(0))
console.log(JSON.stringify(texts.map(text => parse(text))))
"""

# Values for Keyferry to write. Those at the end are random, but always the same.
VALUES = [
    "", "plain", "AZaz09_./:@%+,=-", "two words", " ends with blanks ", "\ttab\t", "#", "a#b", "a #b", "'", '"', "`", "it's", "it's `id`", "it's $HOME",
    "it's \"x\"", '"', 'say "x"', "`id`", "$(id)", "$HOME", "$", "a$", "${HOME}", "${", "a${b", "$ {HOME}", "~", "~root", "a:~", "!", "!!", "\\", "a\\", "a\\b", "a\\\\b",
    "\\n", "C:\\new", "\\\\server\\share", "\\'", "it's\\", "two\nlines", "two\nlines\n", "\n", "\n\n", "it's\ntwo lines", "a\n#b", "a\n'\nb", "a\nB=c",
    "a\r\nb", "a\r", "\x1b[0m", "\x01\x7f", "ö", "日本語 🔑", "\u2028", "a\u2028B=c", "\u00a0x\u00a0", "\ufeffx", "\u0085", "a\x0bb\x0cc", "*", "?", "[a]", "{a,b}",
    "(a)", "a;b", "a&b", "a|b", "a<b>c", "=", "==", "export X=1", "-----BEGIN KEY-----\nMIIB+/=\n-----END KEY-----\n", "{\"a\": {\"b\": 1}}",
    "postgres://app:p%40ss@db:5432/shop?sslmode=require&x=1", "$(touch ran)", "`touch ran`", "';touch ran;'", "\";touch ran;\"", "'\n$(touch ran)\n'", "\\$(touch ran)",
    "x\n$(touch ran)", "'$(touch ran)'", "\"$(touch ran)\"", "\\\ntouch ran", "a' #b", "a\" #b", "a`\nb`", "\\`touch ran\\`", "%s%n", "a\tb", "0", "true", "null",
]

# Files for node's dotenv and kubectl to read.
TEXTS = [
    "A=abc", "A=", "A=abc #123", "A=abc#123", "A=#abc", "A= #abc", "A='abc #123'", 'A="abc #123"', "A=`abc #123`", "A='abc' #123", "A='abc'#123",
    "A=  abc  ", "A = abc", "A =abc", "A= abc", "  A=abc", "\tA=abc", "export A=abc", "export  A=abc", "exportA=abc", "export=abc", "export A='x y'", "A: abc", "A:abc", "A : abc", "A:\nB=1",
    "A:", "A='it''s'", "A='it\\'s'", 'A="say \\"x\\""', 'A="{"a": "b"}"', "A='it's'", "A='a' b", "A='a", 'A="a', "A=`a", "A=a'", "A='", 'A="', "A=''", 'A=""', "A='a\nb'", 'A="a\nb"',
    "A='a\r\nb'\r\nB=c\r\n", 'A="a\\nb"', "A='a\\nb'", "A=a\\nb", "A=`a\\nb`", 'A="a\\tb"', 'A="a\\rb"', 'A="a\\\\nb"', "A=$HOME", "A=${HOME}", 'A="$HOME"', 'A="\\$HOME"', "A='$(id)'",
    "A=x=y", "A==", "A=a b c", "A=\"a\" \"b\"", "A='a' 'b'", "A=a 'b'", "A=a\"b\"", "# A=1\nB=2", "  # A=1\nB=2", "A=1\n\n\nB=2", "A=1\r\nB=2", "A=1\rB=2", "A=1\nA=2", "A", "A\nB=1", "=a", "1A=b", "A.B=c", "A-B=c",
    "a b=c", "ö=c", "A=ö", "A=日本", "A=\u00a0x\u00a0", "\ufeffA=1", "A=1\n\ufeffB=2", "A=\n'x'", "A=\n\n#x\nB=1", "A='a' # it's\nB=1", "A='a\n# b\nc'", "A=\"it's\"", "A='\"x\"'", "A=`it's \"x\"`", "A=x\\",
    "A='x\\'", "A='a\\' #'", "A=a\\ b", "A=\\#x", "A=!x", "A=*", "A=~", "A=;x", "//A=1", "A=1 // x", "A=1;B=2", "A=1,B=2", "A=[1,2]", "A={}", "A= ", "A=\t", "A=\tx\t", "A='  x  '",
    "A=\"\n\"", "A='\n'", "A=\"a\" b \"", "A='a'b'", "A='a#b'c'", "A=\"a#b\"c", "A=x #'y'", "A='x", "A='x\nB='y'", "A='x\nB=y\n'", "A=a\nexport B=b\n  C=c # d\n",
]


def main():
    check_tools()
    random.seed("keyferry")
    values = VALUES + [random_text("ab'\"`$\\#={}() \n~ö\u2028", 12) for _ in range(150)]
    texts = TEXTS + [random_text("AB=='\"`\\#n \n", 16) for _ in range(150)]
    golden = {
        "programs": programs(),
        "written": written(values),
        "read": [{"text": text, "dotenv": node, "kubectl": kubectl(text)} for text, node in zip(texts, node_dotenv(texts))],
    }
    with open(HERE / "dotenv.json", "w") as file:
        # One case per line.
        lists = [f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in golden[key]) + "\n]" for key in ("written", "read")]
        file.write("{\n" + ",\n".join([f'"programs": {json.dumps(golden["programs"])}'] + lists) + "\n}\n")


def check_tools():
    missing = [str(path) for path in (KEYFERRY, DOTENV, PYTHON_DOTENV, KUBECTL) if not path.exists()]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (run `make golden-dotenv`, which installs them)")


def random_text(alphabet, longest):
    return "".join(random.choice(alphabet) for _ in range(random.randint(1, longest)))


def programs():
    package = json.loads((DOTENV / "package/package.json").read_text())
    version = lambda command: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    return {
        "dotenv": package["version"],
        "python-dotenv": PYTHON_DOTENV.name.rsplit("-", 1)[1],
        "kubectl": json.loads(subprocess.run([KUBECTL, "version", "--client", "-o", "json"], capture_output=True, check=True).stdout)["clientVersion"]["gitVersion"],
        "bash": version(["bash", "--version"]),
        "dash": version(["dpkg-query", "-W", "-f", "${Version}", "dash"]),
    }


def written(values):
    """What Keyferry writes for each value, or null. Every reader must read the value."""
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        environment = {"KEYFERRY_VAULT": str(folder / "vault"), "KEYFERRY_IDENTITY": str(folder / "age.key")}
        keyferry = lambda *words: subprocess.run([KEYFERRY, "vault", *words], env=environment, capture_output=True)
        secrets = {f"v/{number}": {"V": {"text": value}} for number, value in enumerate(values)}
        (folder / "all.json").write_text(json.dumps({"format": "keyferry-export-1", "secrets": secrets}))
        for words in (["init"], ["import", "--as-is", str(folder / "all.json")]):
            done = keyferry(*words)
            assert done.returncode == 0, done.stderr
        for number, value in enumerate(values):
            done = keyferry("export", f"v/{number}", "--format", "dotenv")
            text = done.stdout.decode() if done.returncode == 0 else None
            assert (text is None) == (done.stdout == b""), value
            cases.append({"value": value, "text": text})
    texts = [case["text"] for case in cases if case["text"] is not None]
    read = iter(zip(node_dotenv(texts), python_dotenv(texts)))
    for case in cases:
        if case["text"] is not None:
            node, python = next(read)
            seen = {"node": node, "python": python, **{name: {"V": shell(name, case["text"])} for name in ("dash", "bash")}}
            assert all(answer == {"V": case["value"]} for answer in seen.values()), (case, seen)
    return cases


def node_dotenv(texts):
    done = subprocess.run(["node", "-e", NODE, DOTENV / "package"], input=json.dumps(texts).encode(), capture_output=True, check=True)
    return json.loads(done.stdout)


def python_dotenv(texts):
    sys.path.insert(0, str(PYTHON_DOTENV))
    import dotenv

    answers = []
    for text in texts:
        with tempfile.NamedTemporaryFile("w", newline="", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            answers.append(dict(dotenv.dotenv_values(file.name)))
    return answers


def shell(name, text):
    """The value. The reader ran nothing and printed no error."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "f.env").write_bytes(text.encode())
        program = f"/bin/{name}"
        done = subprocess.run([program, "-c", ". ./f.env; printf %s \"$V\""], cwd=folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True)
        assert (done.returncode, done.stderr, os.listdir(folder)) == (0, b"", ["f.env"]), (name, text, done)
        return done.stdout.decode()


def kubectl(text):
    """What it reads, or null if it refuses the file."""
    with tempfile.NamedTemporaryFile("wb") as file:
        file.write(text.encode())
        file.flush()
        command = [KUBECTL, "create", "secret", "generic", "x", f"--from-env-file={file.name}", "--dry-run=client", "-o", "json"]
        done = subprocess.run(command, env={"HOME": "/nonexistent"}, capture_output=True)
    if done.returncode != 0:
        return None
    import base64

    data = json.loads(done.stdout).get("data") or {}
    return {key: base64.b64decode(value or "").decode() for key, value in data.items()}


if __name__ == "__main__":
    main()
