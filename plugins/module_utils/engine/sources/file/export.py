# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An export in EDN that somebody else made."""

from __future__ import annotations

from pathlib import Path

from ...processes import Report
from .. import edn
from .findings import Findings


def check(report: Report, path: Path) -> Findings:
    """Read all of it.

    Raises CorruptError when it is no EDN, ends early, or tells itself that something was left out.
    """
    edn.scan(report, path)
    return Findings(
        [
            "it is UTF-8",
            "every parenthesis, bracket, brace and string in it is closed",
            "nothing in it is marked as left out or unreadable",
        ],
        ["how many entities it should hold: an export without some of them looks the same"],
    )
