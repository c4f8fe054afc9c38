# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where on a host everything lies: for the whole host, or for one user."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ..engine.errors import UsageError
from ..engine.repository.repository import default_repository


@dataclasses.dataclass(frozen=True)
class Layout:
    """Directories, and whether they are of the whole host."""

    is_system: bool
    jobs: Path
    library: Path
    programs: Path
    units: Path
    crontab: Path
    repository: Path

    @property
    def command(self) -> Path:
        """The runner."""
        return self.programs / "dbbackup"

    @property
    def current(self) -> Path:
        """The link to the version of the engine that the runner starts."""
        return self.library / "current"

    @property
    def record(self) -> Path:
        """What was installed the last time."""
        return self.library / "installed.json"

    @classmethod
    def of(cls, scope: str) -> Layout:
        """Raises UsageError for a user who may not write where it goes."""
        if scope == "user":
            return cls._of_user(Path.home())
        if os.geteuid() != 0:
            raise UsageError("only root can install for the whole host; use become, or backup_scope: user")
        return cls(
            is_system=True,
            jobs=Path("/etc/db-backup/jobs.d"),
            library=Path("/usr/local/lib/db-backup"),
            programs=Path("/usr/local/bin"),
            units=Path("/etc/systemd/system"),
            crontab=Path("/etc/cron.d/db-backup"),
            repository=default_repository(),
        )

    @classmethod
    def _of_user(cls, home: Path) -> Layout:
        return cls(
            is_system=False,
            jobs=home / ".config/db-backup/jobs.d",
            library=home / ".local/lib/db-backup",
            programs=home / ".local/bin",
            units=home / ".config/systemd/user",
            crontab=home / ".config/db-backup/crontab",
            repository=home / "backups",
        )
