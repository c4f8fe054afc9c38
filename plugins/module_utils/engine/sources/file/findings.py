# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a look into a file tells, and what it cannot tell."""

from __future__ import annotations

from typing import List, NamedTuple


class Findings(NamedTuple):
    """Two lists of sentences for the manifest."""

    verified: List[str]
    not_verified: List[str]
