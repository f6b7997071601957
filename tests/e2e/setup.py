"""Installs Keyferry as docs/install.md says: the page's own commands in the page's order. What they print is compared with the page."""

import tools
from cluster import matches
from page import blocks

# Commands of the page that a run replaces, because it can reach no chart repository, registry or ssh. The rest runs exactly as it is.
STAND_INS = """
helm() { case "$*" in *secrets-store-csi-driver*) ;; *) "$HELM" "$@" ;; esac; }
docker() { :; }
cargo() { :; }
ssh() { shift; "$@"; }
rsync() { local from="${@: -2:1}" to="${@: -1}"; cp -a "$from." "${to#*:}"; }
"""

SECTIONS = ["1.", "2.", "3.", "4.", "5.", "6.", "7."]


def install(cluster):
    """Follows sections 1 to 7 of the page, from the driver's tokens to a first Pod. Base, and a vault on the node."""
    # The page's commands run from the top of a checkout; what they make (a vault, keys) belongs to the run.
    (cluster.folder / "deploy").symlink_to(tools.REPOSITORY / "deploy")
    # What scenarios/denied.py shows; a class that the reader is to write; and what older drivers do without.
    elsewhere = ["PolicyDenied", "class.yaml"] + (["requiresRepublish", '[{"audience"'] if cluster.node.driver_is_old else [])
    for section in SECTIONS:
        # By kustomize: scenarios/helm.py installs the chart.
        for part in ["With kustomize", "The log"] if section == "6." else [None]:
            follow(cluster, "install.md", section, part, skip=elsewhere)


def follow(cluster, page, section, part=None, skip=(), replaced=None, **environment):
    """Runs a section's commands, and compares what they print with the page. It leaves out paragraphs with one of the words of `skip`. `replaced`
    has what the page leaves to its reader, such as an address."""
    printed = ""
    for block in blocks(page, section, part):
        if any(word in block.text for word in skip):
            continue
        if block.is_command:
            command = block.text
            for theirs, ours in (replaced or {}).items():
                command = command.replace(theirs, ours)
            printed += cluster.bash(STAND_INS + command + "\n", **environment)
        else:
            matches(printed, block.text, f"docs/{page}, section {section}")
            printed = ""


def install_on_a_cluster(cluster):
    """On a cluster that exists: its driver and its nodes stay as they are, and the vault comes as Secrets."""
    (cluster.folder / "deploy").symlink_to(tools.REPOSITORY / "deploy")
    follow(cluster, "install.md", "1.", skip=["helm"])
    follow(cluster, "install.md", "3.")
    follow(cluster, "install.md", "4.")
    cluster.bring_vault()
    cluster.install("vault-in-secrets")
