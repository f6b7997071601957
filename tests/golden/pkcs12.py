"""Asks openssl and keytool what they read in the keystores that Keyferry writes, and makes keystores with them for Keyferry to read.

    python3 tests/golden/pkcs12.py            compares: what they read now must be what pkcs12.json has of them
    python3 tests/golden/pkcs12.py --write    writes their answers, and new keystores of theirs, to pkcs12.json

`written`: what goes into each file, and the file as Keyferry writes it (tests/it/golden/pkcs12.rs checks that; with GOLDEN=write it writes the
file here). openssl must find the key and the certificates. keytool must list the entries, under the type JKS too, and copy them to another
keystore, for which it has to decrypt the key. `read`: keystores that openssl and keytool made, in today's and in old formats.
"""

import base64
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "pkcs12.json"
PASSWORD = "correct horse battery"

# Keystores for Keyferry to read: name, maker, arguments, password.
LEGACY_JAVA = ["-J-Dkeystore.pkcs12.legacy"]
OPENSSL = ["openssl", "pkcs12", "-export", "-inkey", "leaf.key", "-in", "leaf.crt", "-certfile", "ca.crt", "-name", "web", "-out", "out.p12"]
READ = [
    ("openssl", OPENSSL, PASSWORD),
    ("openssl, of old", [*OPENSSL, "-legacy"], PASSWORD),
    ("openssl, certificates with 3DES", [*OPENSSL, "-legacy", "-descert"], PASSWORD),
    ("openssl, 3DES under PBES2", [*OPENSSL, "-certpbe", "DES-EDE3-CBC", "-keypbe", "AES-128-CBC"], PASSWORD),
    ("openssl, AES-192 and SHA-512", [*OPENSSL, "-certpbe", "AES-192-CBC", "-keypbe", "AES-192-CBC", "-macalg", "sha512"], PASSWORD),
    ("openssl, without a MAC", [*OPENSSL, "-nomac"], PASSWORD),
    ("openssl, certificates in the clear", [*OPENSSL, "-certpbe", "NONE", "-keypbe", "NONE"], PASSWORD),
    ("openssl, no password", OPENSSL, ""),
    ("openssl, many iterations", [*OPENSSL, "-iter", "66666"], PASSWORD),
    ("openssl, too many iterations", [*OPENSSL, "-iter", "66667"], PASSWORD),
    ("openssl, a password of all signs", OPENSSL, "pä ß🔑"),
    ("openssl, RC4", [*OPENSSL, "-legacy", "-keypbe", "PBE-SHA1-RC4-128"], PASSWORD),
    ("openssl, certificates alone", ["openssl", "pkcs12", "-export", "-nokeys", "-in", "ca.crt", "-out", "out.p12"], PASSWORD),
    ("keytool", [], PASSWORD),
    ("keytool, of old", LEGACY_JAVA, PASSWORD),
    ("keytool, trusted alone", None, PASSWORD),
]


def main():
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"written": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "--new" in sys.argv:
            golden["written"] = made_inputs(folder)
        for case in golden["written"]:
            if "file" not in case:
                continue
            (folder / "in.p12").write_bytes(base64.b64decode(case["file"]))
            answers = {"openssl": openssl(folder, case), "keytool": keytool(folder, case)}
            check(case, answers)
            if "--write" in sys.argv:
                case["answers"] = answers
            elif case["answers"] != answers:
                sys.exit(f"{case['name']}: read otherwise than before:\n{json.dumps(answers, indent=1)}\n{json.dumps(case['answers'], indent=1)}")
        if "--write" in sys.argv:
            golden["read"] = [made(folder, *case) for case in READ]
            golden["programs"] = {"openssl": run(["openssl", "version"], folder).split()[1], "keytool": java()}
            write(golden)
    print(f"{len(golden['written'])} keystores are read as they were written, {len(golden['read'])} are there to be read")


def write(golden):
    """One case per line."""
    lists = [f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in golden[key]) + "\n]" for key in ("written", "read")]
    GOLDEN.write_text("{\n" + ",\n".join([f'"programs": {json.dumps(golden.get("programs", {}))}'] + lists) + "\n}\n")


def run(command, folder, **more):
    # openssl writes names in Latin-1.
    encoding = "latin-1" if command[:2] == ["openssl", "pkcs12"] else "utf-8"
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding=encoding, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def java():
    done = subprocess.run(["java", "-version"], capture_output=True, text=True)
    return re.search(r'"([^"]+)"', done.stderr).group(1)


# === What Keyferry wrote ===


def sha256(der):
    return hashlib.sha256(der).hexdigest()


def blocks(text):
    """The DER of each PEM block, with its label."""
    found = re.findall(r"-----BEGIN ([A-Z ]+)-----\n(.*?)-----END", text, re.S)
    return [(label, base64.b64decode(body)) for label, body in found]


def pkcs8(folder, pem):
    """A private key, in the form that is compared."""
    text = run(["openssl", "pkcs8", "-topk8", "-nocrypt"], folder, input=pem)
    return sha256(blocks(text)[0][1])


def openssl(folder, case):
    text = run(["openssl", "pkcs12", "-in", "in.p12", "-noenc", "-passin", "pass:" + case["password"]], folder)
    info = subprocess.run(
        ["openssl", "pkcs12", "-in", "in.p12", "-info", "-noout", "-passin", "pass:" + case["password"]], cwd=folder, capture_output=True, text=True
    )
    keys = [pkcs8(folder, text[text.index("-----BEGIN PRIVATE KEY") :])] if "PRIVATE KEY" in text else []
    certificates = [sha256(der) for label, der in blocks(text) if label == "CERTIFICATE"]
    return {"info": info.stderr.splitlines(), "keys": keys, "certificates": certificates, "names": re.findall(r"friendlyName: (.*)", text)}


def keytool(folder, case):
    entries = {store: listed(folder, "in.p12", store, case["password"]) for store in ("PKCS12", "JKS")}
    if entries["PKCS12"] != entries["JKS"]:
        sys.exit(f"{case['name']}: keytool lists other entries under the type JKS")
    # To copy a key, it has to be decrypted.
    (folder / "copy.p12").unlink(missing_ok=True)
    run(["keytool", "-importkeystore", "-noprompt", "-srckeystore", "in.p12", "-srcstorepass", case["password"], "-destkeystore", "copy.p12",
         "-deststorepass", PASSWORD], folder)
    copied = listed(folder, "copy.p12", "PKCS12", PASSWORD)
    if copied != entries["PKCS12"]:
        sys.exit(f"{case['name']}: keytool has copied {copied}")
    return entries["PKCS12"]


def listed(folder, file, store, password):
    text = run(["keytool", "-list", "-v", "-keystore", file, "-storetype", store, "-storepass", password, "-J-Duser.language=en",
                "-J-Dstdout.encoding=UTF-8"], folder)
    entries = []
    for entry in re.split(r"^Alias name: ", text, flags=re.M)[1:]:
        fingerprints = [print.replace(":", "").lower() for print in re.findall(r"SHA256: (\S+)", entry)]
        entries.append({"alias": entry.splitlines()[0], "type": re.search(r"Entry type: (\S+)", entry).group(1), "certificates": fingerprints})
    return sorted(entries, key=lambda entry: entry["alias"])


def check(case, answers):
    """Compares what comes out with what went in."""
    chain, trust = ([sha256(der) for _, der in blocks(case[part])] for part in ("chain", "trust"))
    wanted = []
    with tempfile.TemporaryDirectory() as folder:
        keys = [pkcs8(folder, case["key"])] if case["key"] else []
    if keys:
        # keytool completes a chain with other certificates of the file.
        wanted.append({"alias": case["alias"].lower(), "type": "PrivateKeyEntry", "certificates": chain + trust})
    for number, certificate in enumerate(trust, 1):
        wanted.append({"alias": f"{case['alias']}-trust-{number}".lower(), "type": "trustedCertEntry", "certificates": [certificate]})
    wanted.sort(key=lambda entry: entry["alias"])
    if answers["keytool"] != wanted:
        sys.exit(f"{case['name']}: keytool lists {answers['keytool']}, and not {wanted}")
    if (answers["openssl"]["keys"], answers["openssl"]["certificates"]) != (keys, chain + trust):
        sys.exit(f"{case['name']}: openssl finds {answers['openssl']}, and not {keys}, {chain + trust}")


# === What Keyferry is to read ===


def made(folder, name, arguments, password):
    make_chain(folder, ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], levels=2)
    (folder / "out.p12").unlink(missing_ok=True)
    if arguments and arguments[0] == "openssl":
        by = [*arguments, "-passout", "pass:" + password]
        run(by, folder)
    else:
        by = keytool_store(folder, arguments, password)
    case = {"name": name, "by": " ".join(by), "password": password, "file": base64.b64encode((folder / "out.p12").read_bytes()).decode()}
    return case | {part: (folder / file).read_text() for part, file in (("key", "leaf.key"), ("leaf", "leaf.crt"), ("ca", "ca.crt"))}


def keytool_store(folder, java_arguments, password):
    """A key with its chain, copied from another file, and the same CA as a trusted entry; or that alone."""
    common = ["-keystore", "out.p12", "-storetype", "PKCS12", "-storepass", password, "-noprompt"]
    by = []
    if java_arguments is not None:
        run(["openssl", "pkcs12", "-export", "-inkey", "leaf.key", "-in", "leaf.crt", "-certfile", "ca.crt", "-name", "web", "-out", "from.p12",
             "-passout", "pass:" + password], folder)
        by = ["keytool", "-importkeystore", "-srckeystore", "from.p12", "-srcstorepass", password, "-destkeystore", "out.p12", "-deststoretype",
              "PKCS12", "-deststorepass", password, "-noprompt", *java_arguments]
        run(by, folder)
    by = by or ["keytool", "-importcert", "-file", "ca.crt", "-alias", "ca", *common]
    run(["keytool", "-importcert", "-file", "ca.crt", "-alias", "ca", *common, *(java_arguments or [])], folder)
    return by


def make_chain(folder, algorithm, levels):
    """leaf.key, leaf.crt, and ca.crt with its issuers: the nearest first."""
    last = None
    issuers = []
    for level in range(levels, 0, -1):
        name = "leaf" if level == 1 else f"ca{level}"
        run(["openssl", "genpkey", *algorithm, "-out", f"{name}.key"], folder)
        request = ["openssl", "req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-days", "36500", "-out", f"{name}.crt"]
        if level > 1:
            request += ["-addext", "basicConstraints=critical,CA:TRUE"]
        if last:
            request += ["-CA", f"{last}.crt", "-CAkey", f"{last}.key"]
        run(request, folder)
        if level > 1:
            issuers.insert(0, (folder / f"{name}.crt").read_text())
        last = name
    (folder / "ca.crt").write_text("".join(issuers))


def made_inputs(folder):
    """Keys of each kind, for Keyferry to write. Keyferry adds their files."""
    kinds = [
        ("RSA", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "kafka", PASSWORD, []),
        ("RSA, as PKCS#1", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "Kafka Ünit", "~ !\"#$%&'", ["rsa", "-traditional"]),
        ("P-256", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "keyferry", PASSWORD, []),
        ("P-384, as SEC 1", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "keyferry", PASSWORD, ["ec"]),
        ("Ed25519", ["-algorithm", "ED25519"], "keyferry", "x", []),
    ]
    inputs = []
    for name, algorithm, alias, password, form in kinds:
        make_chain(folder, algorithm, levels=3)
        key = (folder / "leaf.key").read_text()
        if form:
            key = run(["openssl", form[0], *form[1:]], folder, input=key)
        chain, cas = (folder / "leaf.crt").read_text(), (folder / "ca.crt").read_text()
        inputs.append({"name": name, "alias": alias, "password": password, "key": key, "chain": chain + cas, "trust": ""})
        inputs.append({"name": name + ", trusting", "alias": alias, "password": password, "key": key, "chain": chain, "trust": cas})
    inputs.append({"name": "trust alone", "alias": "ca", "password": PASSWORD, "key": "", "chain": "", "trust": cas})
    return inputs


if __name__ == "__main__":
    main()
