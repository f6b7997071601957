"""Archives whose bytes depend only on their contents: not on an owner, a clock, the order of a folder, or a compression library that changes."""

import io
import subprocess
import tarfile
from typing import NamedTuple


class File(NamedTuple):
    """`path` is relative, with `/`. Folders are not listed: `tar` adds those that files need."""

    path: str
    contents: bytes
    mode: int = 0o644


def tar(files, epoch):
    """A ustar archive, sorted by path. Every entry belongs to root and has the time `epoch`, in seconds."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in sorted({parent for file in files for parent in parents(file.path)}):
            archive.addfile(entry(folder, 0o755, epoch, tarfile.DIRTYPE))
        for file in sorted(files):
            member = entry(file.path, file.mode, epoch, tarfile.REGTYPE)
            member.size = len(file.contents)
            archive.addfile(member, io.BytesIO(file.contents))
    return made.getvalue()


def gzip(contents):
    """With the program gzip, because its output has been the same for many years. The output of zlib depends on its build."""
    return subprocess.run(["gzip", "--no-name", "--best"], input=contents, stdout=subprocess.PIPE, check=True).stdout


def repacked(archive, epoch):
    """A .tgz that another program has written, with the same files and without the rest of what that program says of them."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        files = [File(member.name, found.extractfile(member).read()) for member in found if member.isfile()]
    return gzip(tar(files, epoch))


def parents(path):
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def entry(path, mode, epoch, kind):
    made = tarfile.TarInfo(path)
    made.type, made.mode, made.mtime = kind, mode, epoch
    return made
