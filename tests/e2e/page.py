"""A page of docs/ as something that can be run: the paragraphs of its indented blocks, by section; commands, and what they print."""

import re
from dataclasses import dataclass

import tools

# The first words of the commands that the pages have. A paragraph that begins otherwise is what the commands before it print.
COMMANDS = {"bao", "cargo", "curl", "docker", "for", "helm", "keyferry", "kubectl", "oc", "openssl", "rm", "sh", "(umask", "#", "export", "patch"}


@dataclass
class Block:
    text: str

    @property
    def is_command(self):
        return self.text.split()[0] in COMMANDS


def blocks(page, section):
    """The paragraphs of a section, in the page's order. A section is named by the start of its heading."""
    text = (tools.REPOSITORY / "docs" / page).read_text()
    found = re.search(rf"^## {re.escape(section)}.*?$(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not found:
        raise AssertionError(f"docs/{page} has no section {section!r}")
    # What follows a sentence in bold is another way of doing the same ("No way to write to nodes?").
    body = re.split(r"^\*\*", found[1], flags=re.M)[0]
    paragraphs = re.findall(r"(?:^    .+\n)+", body, re.M)
    return [Block("\n".join(line[4:] for line in paragraph.splitlines())) for paragraph in paragraphs]
