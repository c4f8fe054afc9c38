# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Protect a backup from being pruned, or leave it to the policy again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Optional

from ..repository import locks, protection
from ..repository.repository import JobDirectory


@dataclasses.dataclass(frozen=True)
class Protected:
    """How a backup stood and stands now; changed also when only the reason is another."""

    changed: bool
    path: Path
    was_protected: bool
    protected: bool
    reason: Optional[str]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "changed": self.changed,
            "path": str(self.path),
            "protected": self.protected,
            "reason": self.reason,
        }


def set_protection(
    directory: JobDirectory, backup_id: str, *, wanted: bool, reason: Optional[str], predict: bool = False
) -> Protected:
    """Protect the backup, or no longer; with predict, only look. Without a reason an earlier one stays.

    Raises NotFoundError, or LockedError while the backup is being removed.
    """
    with directory.held() as held:
        backup = held.backup(backup_id)
        with backup.in_use(), locks.briefly_locked(held.place):
            now = protection.read(backup.place)
            changed = wanted != bool(now) or bool(wanted and now and reason not in (None, now.reason))
            if changed and not predict:
                if wanted:
                    protection.protect(backup.place, reason)
                else:
                    protection.unprotect(backup.place)
            if wanted and now and reason is None:
                reason = now.reason
            return Protected(changed, backup.path, bool(now), wanted, reason)
