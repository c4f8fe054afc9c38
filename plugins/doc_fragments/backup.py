# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What every backup module understands and returns."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - Name of the job; its backups are kept in a directory of this name.
      - Lower-case letters, digits, V(-) and V(_), beginning with a letter or digit.
    type: str
    required: true
  compression:
    description:
      - How the backup is compressed.
      - V(zstd) uses the Python library C(zstandard) where the target has it, else the program C(zstd), else falls back
        to gzip. The manifest says which it was.
    type: str
    choices: [zstd, gzip, none]
    default: zstd
  compression_level:
    description:
      - Level of the compression, 1 to 19 for V(zstd) and 1 to 9 for V(gzip).
      - Without it, 3 for V(zstd) and 6 for V(gzip).
    type: int
  verify:
    description:
      - Read back what was written, compare all checksums, open the copy with its engine and read all of it, before the
        backup is published.
      - Needs room for one uncompressed copy in the repository while it runs.
    type: bool
    default: true
  min_age_hours:
    description: Do nothing when the last good backup is younger than this. V(0) always backs up.
    type: float
    default: 0.0
  skip_unchanged:
    description: Do nothing when the database has committed nothing since the last good backup.
    type: bool
    default: false
  force:
    description: Back up even when O(min_age_hours) or O(skip_unchanged) say that there is no need.
    type: bool
    default: false
notes:
  - A backup appears in the repository complete and verified, or not at all. A failed or killed run leaves earlier
    backups as they were.
  - Only one run of a job is possible at a time; a second one fails.
"""
