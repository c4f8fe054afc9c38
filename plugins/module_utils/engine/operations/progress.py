# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long work tells how far it is."""

from __future__ import annotations

from typing import Callable

# Told the number of stored bytes that were read since the last call.
Progress = Callable[[int], None]


def silent(_bytes: int) -> None:
    """Progress that nobody watches."""
