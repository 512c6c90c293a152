"""The kernel's table of mounts, ``/proc/self/mountinfo``."""

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mount: its path, source, type and options.

    ``root`` is the directory of the file system that is mounted; for a bind mount of a part it is
    not ``/``.
    ``id`` and ``device`` (``major:minor``) are the kernel's while the mount exists.
    """

    path: Path
    source: str
    fstype: str
    root: str
    options: tuple[str, ...]
    id: int
    device: str

    @property
    def read_only(self) -> bool:
        """Whether the mount, or the file system below it, refuses writes."""
        return "ro" in self.options


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse mountinfo's lines, the newest mount last.

    Fields: proc(5), ``36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=…``.
    Raises ValueError for a line that has another form.
    """
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            raise ValueError(f"not a line of mountinfo: {line!r}")
        options = (*fields[5].split(","), *tail[2].split(","))
        mounts.append(
            Mount(
                path=Path(_unescape(fields[4])),
                source=_unescape(tail[1]),
                fstype=tail[0],
                root=_unescape(fields[3]),
                options=options,
                id=int(fields[0]),
                device=fields[2],
            )
        )
    return mounts


def mount_at(mounts: list[Mount], path: Path) -> Mount | None:
    """The mount that is visible at a path, the last one there; None if it is not a mount point."""
    return next((mount for mount in reversed(mounts) if mount.path == path), None)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
