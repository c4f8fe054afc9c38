# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Where backups are."""

    DOCUMENTATION = r"""
options:
  repository:
    description:
      - Directory that holds the backups of all jobs, a directory per job.
      - Without it, V(/var/backups/db-backup) for root, else C(backups) in the home directory of the user.
    type: path
"""
