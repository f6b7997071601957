"""A page of docs/ as something that can be run: the paragraphs of its indented blocks, by section; commands, and what they print."""

import re
from dataclasses import dataclass

import tools

# The first words of the commands on the pages. A paragraph with another beginning is what the commands before it print.
COMMANDS = {"bao", "cargo", "curl", "docker", "for", "helm", "keyferry", "kubectl", "oc", "openssl", "rm", "sh", "sleep", "(umask", "#", "export", "patch"}


@dataclass
class Block:
    text: str

    @property
    def is_command(self):
        return self.text.split()[0] in COMMANDS


def blocks(page, section, part=None):
    """The paragraphs of a section, in the page's order. A section is named by the start of its heading.

    A sentence in bold begins a part of its own ("No way to write to nodes?"): `part` names one by its start. Without it, the paragraphs
    are those before the first.
    """
    body, *parts = re.split(r"^\*\*", section_text(page, section), flags=re.M)
    if part:
        body = next((each for each in parts if each.startswith(part)), None)
        if body is None:
            raise AssertionError(f"docs/{page}, section {section!r}, has no part {part!r}")
    return [Block(paragraph) for paragraph in indented(body)]


def message(code, words, replaced=None):
    """The message of docs/errors.md that has this code and these words, with our own names in place of the page's."""
    unfenced = re.sub(r"^```.*?^```", "", section_text("errors.md", code), flags=re.M | re.S)
    quoted = [text for paragraph in indented(unfenced) for text in re.split(rf" (?={code}: )", " ".join(paragraph.split()))]
    found = [text for text in quoted if words in text]
    if len(found) != 1:
        raise AssertionError(f"docs/errors.md, {code}: {len(found)} messages have {words!r}")
    for theirs, ours in (replaced or {}).items():
        if theirs not in found[0]:
            raise AssertionError(f"docs/errors.md, {code}: the message with {words!r} has no {theirs!r}")
        found[0] = found[0].replace(theirs, ours)
    return found[0]


def section_text(page, section):
    text = (tools.REPOSITORY / "docs" / page).read_text()
    found = re.search(rf"^## {re.escape(section)}.*?$(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not found:
        raise AssertionError(f"docs/{page} has no section {section!r}")
    return found[1]


def indented(text):
    """The paragraphs of indented blocks, without their indent."""
    return ["\n".join(line[4:] for line in paragraph.splitlines()) for paragraph in re.findall(r"(?:^    .+\n)+", text, re.M)]
