# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The attributes of all modules of the collection."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and return what would change, without changing anything.
    support: full
  diff_mode:
    description: Returns a diff of metadata, as sizes and hashes; never of content.
    support: full
  platform:
    description: Target operating systems.
    platforms: linux
    support: full
"""
