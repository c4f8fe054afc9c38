# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose a restored file is, and who may read it; given through open descriptors only."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple, Optional


class Ownership(NamedTuple):
    """Numbers of user and group, and mode bits; None leaves one as it is."""

    uid: Optional[int] = None
    gid: Optional[int] = None
    mode: Optional[int] = None

    def give(self, descriptor: int) -> None:
        """Apply it to an open file or directory."""
        os.fchown(descriptor, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        if self.mode is not None:
            os.fchmod(descriptor, self.mode)

    def holds(self, status: os.stat_result) -> bool:
        """Whether a file has it already."""
        found = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        return all(wanted is None or wanted == value for wanted, value in zip(self, found))

    def in_words(self, status: Optional[os.stat_result]) -> str:
        """As 1000:1000 0640; what is left as it is comes from the file's status, or of this user for a new file."""
        uid, gid, mode = os.geteuid(), os.getegid(), 0o600
        if status:
            uid, gid, mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        words = [mine if wanted is None else wanted for wanted, mine in zip(self, (uid, gid, mode))]
        return "{}:{} {:04o}".format(*words)

    def of_directory(self) -> Ownership:
        """For the directory around such files: who may read or write them may do so there, the others never write."""
        if self.mode is None:
            return self
        return self._replace(mode=0o700 | (self.mode & 0o775) & ~0o111 | (self.mode & 0o444) >> 2)
