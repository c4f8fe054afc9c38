# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that must be there with a content, an owner and a mode; replaced as a whole, in the directory they are in."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import tempfile
from pathlib import Path
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file as it has to be. is_shown: its content may be seen in a diff."""

    path: Path
    content: str
    mode: int = 0o644
    gid: Optional[int] = None
    is_shown: bool = True

    def is_there(self) -> bool:
        """Whether the file is like that already. Raises OSError when it cannot be read."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        gid = os.getegid() if self.gid is None else self.gid
        return (
            stat.S_ISREG(status.st_mode)
            and (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (self.mode, os.geteuid(), gid)
            and read(self.path) == self.content
        )

    def write(self) -> None:
        """Make it so. New files get the label of SELinux that files of their directory have. Raises OSError."""
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=str(self.path.parent))
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchown(descriptor, -1, os.getegid() if self.gid is None else self.gid)
                os.fchmod(descriptor, self.mode)
                file.write(self.content.encode())
                file.flush()
                os.fsync(descriptor)
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def read(path: Path) -> str:
    """The text of a file, empty where there is none. Raises OSError when it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
