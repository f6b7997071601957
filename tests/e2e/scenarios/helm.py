"""The Helm chart takes over from kustomize, is upgraded, survives a faulty configuration, and is removed; the keys stay.
"""

import json
import os
import re
import subprocess

import tools
from cluster import MANIFESTS, Failed, contains, pod, same, secret_provider_class
from setup import follow

SHORT = True
# It changes the daemon many times.
LANE = "helm"

CHART = tools.REPOSITORY / "deploy/helm/keyferry"
OLDEST, NEWEST = (tools.REPOSITORY / f".tools/helm-{version}" for version in ["3.17.3", "4.1.4"])
KEYS = ["configmap/keyferry-jwks", "secret/keyferry-age-identity", "secret/keyferry-version-key"]


def run(cluster):
    cluster.namespace("shop")
    serves(cluster, "by-kustomize")
    takes_over(cluster)
    upgrades(cluster)
    survives_a_fault(cluster)
    keeps_its_values(cluster)
    removes_former_configurations(cluster)
    uninstalls(cluster)
    installs_as_the_page_says(cluster)
    helm(cluster, NEWEST, "uninstall", "keyferry")
    cluster.install()
    takes_over_by_helm_4(cluster)
    serves(cluster, "taken-by-helm-4")


def takes_over(cluster):
    """The DaemonSet is the same object, and its Pods are replaced as by any change."""
    before = daemonset(cluster)
    follow(cluster, "install.md", "Upgrade", "From kustomize to Helm", HELM=str(OLDEST))
    cluster.rolled_out()
    notes = helm(cluster, OLDEST, "get", "notes", "keyferry")
    same(daemonset(cluster)["metadata"]["uid"], before["metadata"]["uid"], "the DaemonSet's uid after --take-ownership")
    serves(cluster, "by-helm-3")
    # The notes ask for objects that exist, and their commands run.
    asked = re.search(r"kubectl -n keyferry get (.*)", notes)[1].split()
    same(asked, KEYS, "what the notes say is needed")
    cluster.bash(re.search(r"(kubectl -n keyferry get .*)", notes)[1])
    contains(notes, """--set-json 'tokenRequests=[{"audience":"keyferry"}]'""", "the notes")
    cluster.bash(re.search(r"(kubectl patch csidriver .*?\\\n.*)", notes)[1])
    cluster.bash(re.search(r"(kubectl -n keyferry exec .*)", notes)[1].replace("doctor", "version"))


def takes_over_by_helm_4(cluster):
    """It applies on the server's side, where fields belong to kubectl until --force-conflicts takes them."""
    before = daemonset(cluster)
    helm(cluster, NEWEST, "upgrade", "--install", "keyferry", CHART, "--take-ownership", "--force-conflicts")
    cluster.rolled_out()
    same(daemonset(cluster)["metadata"]["uid"], before["metadata"]["uid"], "the DaemonSet's uid after --take-ownership by Helm 4")


def upgrades(cluster):
    """With another configuration the Pods are replaced, and the ConfigMap that they mounted stays."""
    former, pods = mounted(cluster), names(cluster)
    values = values_file(cluster, "level: info", "level: debug")
    helm(cluster, NEWEST, "upgrade", "keyferry", CHART, "--values", values)
    if not {former, mounted(cluster)} <= configurations(cluster):
        raise Failed(f"both ConfigMaps should be there: {former}, {mounted(cluster)}; there are {configurations(cluster)}")
    cluster.rolled_out()
    if mounted(cluster) == former or names(cluster) & pods:
        raise Failed(f"a changed configuration has not replaced the Pods: {pods} and {names(cluster)}, {former}")
    serves(cluster, "by-helm-4")
    contains(configurations(cluster), former, "the ConfigMaps after the rollout")


def survives_a_fault(cluster):
    """A fault that a schema cannot find: the Pod does not become ready, its log says why, and `helm rollback` goes back."""
    former, revision = mounted(cluster), json.loads(helm(cluster, NEWEST, "history", "keyferry", "--output=json"))[-1]["revision"]
    values = values_file(cluster, '"files/${namespace}/**"', '"file/${namespace}/**"')
    helm(cluster, NEWEST, "upgrade", "keyferry", CHART, "--values", values)
    fault = 'policy rule 1.read: "file/${namespace}/**": there is no backend "file" (did you mean "files/${namespace}/**"?)'
    # The log is JSON.
    cluster.until("the daemon refuses the configuration", lambda: json.dumps(fault)[1:-1] in log(cluster))
    rolls_back(cluster, revision)
    cluster.rolled_out()
    same(mounted(cluster), former, "the ConfigMap after `helm rollback`")
    serves(cluster, "rolled-back")


def rolls_back(cluster, revision):
    """Helm before 3.22 and 4.2.1 does not find the ConfigMap that it kept, and does on a second try (helm/helm#8228). The chart's README says so."""
    try:
        helm(cluster, NEWEST, "rollback", "keyferry", revision)
    except Failed as failed:
        contains(str(failed), "ConfigMap with the name", "the first helm rollback")
        helm(cluster, NEWEST, "rollback", "keyferry", revision)


def keeps_its_values(cluster):
    """The configuration is the former one again, so there is no new ConfigMap."""
    former = mounted(cluster)
    for flag in ["--reuse-values", "--reset-then-reuse-values"]:
        helm(cluster, NEWEST, "upgrade", "keyferry", CHART, flag, "--set", "podLabels.e2e=reused")
        cluster.rolled_out()
        same(mounted(cluster), former, f"the ConfigMap after {flag}")
        same(daemonset(cluster)["spec"]["template"]["metadata"]["labels"]["e2e"], "reused", "the label of --set")


def removes_former_configurations(cluster):
    notes, readme = helm(cluster, NEWEST, "get", "notes", "keyferry"), (CHART / "README.md").read_text()
    if len(configurations(cluster)) < 2:
        raise Failed(f"former ConfigMaps should still be there: {configurations(cluster)}")
    for command in [re.search(r"(kubectl -n keyferry delete configmap .*)", notes)[1], re.search(r"(current=.*\n.*)", readme)[1]]:
        cluster.bash(command)
        same(configurations(cluster), {mounted(cluster)}, f"the ConfigMaps after {command}")


def uninstalls(cluster):
    follow(cluster, "install.md", "Uninstall", "With Helm", HELM=str(NEWEST))
    cluster.until("the daemons end", lambda: not cluster.daemons())
    for key in KEYS:
        kind, name = key.split("/")
        if not cluster.get(kind, name, "keyferry"):
            raise Failed(f"helm uninstall has removed {key}")
    page = (tools.REPOSITORY / "docs/install.md").read_text()
    cluster.bash(re.search(r"`(kubectl -n keyferry delete configmap -l [^`]*)`", page)[1])
    same(configurations(cluster), set(), "the ConfigMaps after the page's command")
    same(cluster.read("shop", "rolled-back", "/secrets/value"), "by rolled-back", "the file of a running Pod without a provider")


def installs_as_the_page_says(cluster):
    follow(cluster, "install.md", "6.", "With Helm", HELM=str(NEWEST))
    serves(cluster, "by-the-page")


# === Looking ===


def helm(cluster, program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments), "--namespace", "keyferry"], cwd=cluster.folder, text=True, capture_output=True,
                          timeout=180, env={**os.environ, "KUBECONFIG": cluster.kubeconfig})
    if done.returncode != 0:
        raise Failed(f"helm {' '.join(map(str, arguments))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def values_file(cluster, former, new):
    """The base's configuration with a change, as values: as the chart's README says."""
    text = (MANIFESTS / "base/keyferry.yaml").read_text()
    if former not in text:
        raise Failed(f"base/keyferry.yaml has no {former!r} any more")
    (cluster.folder / "keyferry.yaml").write_text(text.replace(former, new))
    cluster.bash("(echo config:; sed 's/^/  /' keyferry.yaml) >values.yaml")
    return cluster.folder / "values.yaml"


def serves(cluster, name):
    """A secret set now is in the file of a new Pod."""
    cluster.set_secret("shop/helm", value=f"by {name}")
    cluster.apply(secret_provider_class("helm", "shop", "- secret: shop/helm\n  field: value\n"), pod(name, "shop", "helm"))
    cluster.ready("shop", name)
    same(cluster.read("shop", name, "/secrets/value"), f"by {name}", f"{name}: the file")


def daemonset(cluster):
    return cluster.get("daemonset", "keyferry", "keyferry")


def mounted(cluster):
    """The ConfigMap that new Pods mount."""
    etc = next(volume for volume in daemonset(cluster)["spec"]["template"]["spec"]["volumes"] if volume["name"] == "etc")
    return next(source["configMap"]["name"] for source in etc["projected"]["sources"] if "items" not in source.get("configMap", {"items": []}))


def configurations(cluster):
    return {item["metadata"]["name"] for item in cluster.get("configmap", namespace="keyferry", selector="keyferry-config")}


def names(cluster):
    return {item["metadata"]["name"] for item in cluster.daemons()}


def log(cluster):
    return cluster.kubectl("-n", "keyferry", "logs", "daemonset/keyferry", "--tail=-1", check=False)
