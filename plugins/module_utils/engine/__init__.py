# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine of embedded.db_backup: captures, proves and restores embedded databases.

It imports nothing from Ansible and runs on plain Python 3.8. Rooms, an arrow only downwards:
cli and modules -> operations -> jobs -> sources -> repository -> stream.
"""

from __future__ import annotations

VERSION = "0.1.0"
