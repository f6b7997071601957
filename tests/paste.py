"""Types texts into an interactive shell on a terminal, as a person pastes them, and reports how each ended.

Standard input: {"shell": [...], "texts": [...]}. Standard output: a list of [exit code, what the terminal showed].
"""

import json
import os
import pty
import re
import select
import sys
import time

LIMIT = 60

# The typed text differs from the printed one, so that the echo does not look like the answer.
ASK = "echo __co''de:$?:\n"
ANSWER = re.compile(r"__code:(\d+):")


def paste(fd, text):
    """Writes while the terminal takes it, and reads what it shows, until the shell has said how the text ended."""
    left, shown, end = (text.rstrip("\n") + "\n" + ASK).encode(), b"", time.monotonic() + LIMIT
    while time.monotonic() < end:
        readable, writable, _ = select.select([fd], [fd] if left else [], [], 1)
        if writable:
            left = left[os.write(fd, left[:256]):]
        if readable:
            shown += os.read(fd, 65536)
        found = ANSWER.search(shown.decode(errors="replace"))
        if found:
            return int(found.group(1)), shown.decode(errors="replace")
    return -1, shown.decode(errors="replace")


def main():
    job = json.load(sys.stdin)
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(job["shell"][0], job["shell"])
    print(json.dumps([paste(fd, text) for text in job["texts"]]))
    os.close(fd)


main()
