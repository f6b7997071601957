"""Pastes texts into an interactive shell on a terminal, as a person does, and reports how each ended.

Standard input: {"shell": [...], "bracketed": ..., "texts": [...]}. Standard output: {"ends": a list of [exit code, what the terminal showed],
"left": the command lines of the processes that still ran at the end}.

Terminals of today mark a pasted text if the shell asks for it ("bracketed"): then the shell gets all lines before it runs the first. Without the
mark, the lines come one by one, as if a person typed them.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

LIMIT = 60

# The typed text differs from the printed one, so that the echo does not look like the answer.
ASK = "echo __co''de:$?:\n"
ANSWER = re.compile(r"__code:(\d+):")

# The shell asks the terminal to mark what is pasted.
MARKS = "\x1b[?2004h"
BEFORE, BEHIND = "\x1b[200~", "\x1b[201~\r"

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]|\r|\x07")


class Terminal:
    def __init__(self, shell):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Without echo, typed text is not in the middle of what a command prints. In wide lines, no message is wrapped.
            mode = termios.tcgetattr(0)
            mode[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, mode)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 2000, 0, 0))
            os.execvp(shell[0], shell)
        self.shown = ""

    def until(self, found, text=""):
        """Writes while the terminal takes it, and reads what it shows, until `found` is true of that."""
        left, raw, end = text.encode(), self.shown.encode(), time.monotonic() + LIMIT
        while time.monotonic() < end:
            self.shown = raw.decode(errors="replace")
            if not left and found(self.shown):
                return True
            readable, writable, _ = select.select([self.fd], [self.fd] if left else [], [], 1)
            if writable:
                left = left[os.write(self.fd, left[:256]):]
            if readable:
                raw += os.read(self.fd, 65536)
        return False

    def paste(self, text, bracketed):
        """How the text ended, and what was shown since the former one."""
        text = text.rstrip("\n")
        if bracketed:
            self.until(lambda shown: MARKS in shown)
        done = self.until(ANSWER.search, (BEFORE + text + BEHIND if bracketed else text + "\n") + ASK)
        code = ANSWER.search(self.shown)
        shown, self.shown = (self.shown[:code.start()], self.shown[code.end():]) if done else (self.shown, "")
        return int(code[1]) if done else -1, ESCAPES.sub("", shown)

    def processes(self):
        """All processes that the shell started, and the shell."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append((int(process.name), (process / "cmdline").read_text().replace("\0", " ").strip()))
            except OSError:
                continue
        return found

    def left(self):
        return [line for pid, line in self.processes() if pid != self.pid]

    def close(self):
        """Also after a fault no process stays."""
        for pid, _ in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    job = json.load(sys.stdin)
    terminal = Terminal(job["shell"])
    try:
        ends = []
        # What comes after a text that did not end has no meaning.
        while len(ends) < len(job["texts"]) and not (ends and ends[-1][0] < 0):
            ends.append(terminal.paste(job["texts"][len(ends)], job["bracketed"]))
        print(json.dumps({"ends": ends, "left": terminal.left()}))
    finally:
        terminal.close()


main()
