# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is at the destination of a restore already: is it the backup, whose is it, and what would be replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Tuple

from ..errors import RestoreError, naming
from ..paths import opened_inside
from ..repository.manifest import FileRecord
from ..sources import tree
from ..stream.digest import has_content, sha256_of
from .ownership import Ownership


def is_in_place(root: Path, name: str, record: FileRecord) -> bool:
    """Whether the file has the content of the record."""
    try:
        with opened_inside(root, name) as descriptor:
            return has_content(descriptor, record.size, record.sha256)
    except OSError:
        return False


def give(root: Path, names: Iterable[str], wanted: Ownership, predict: bool) -> bool:
    """Give these files what is wanted, where they have something else; returns whether any had. Raises OSError."""
    changed = False
    for name in names:
        with opened_inside(root, name) as descriptor, naming(root / name):
            status = os.fstat(descriptor)
            if wanted.holds(status):
                continue
            changed = True
            if not predict:
                _refuse_second_name(root / name, status)
                wanted.give(descriptor)
                os.fsync(descriptor)
    return changed


def names_in_tree(root: Path, path: str) -> Iterator[str]:
    """Names of the files and directories of a restored tree, itself first."""
    for entry in tree.entries(root, path):
        if stat.S_ISREG(entry.status.st_mode) or stat.S_ISDIR(entry.status.st_mode):
            yield entry.path


def describe(root: Path, names: Dict[str, str]) -> Tuple[Dict[str, Any], Dict[str, os.stat_result]]:
    """Size and hashes of the files that are there, by record path as names has them; and their states."""
    sizes, hashes, states = 0, {}, {}
    for path, name in names.items():
        try:
            with opened_inside(root, name) as descriptor:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode):
                    with os.fdopen(os.dup(descriptor), "rb") as file:
                        hashes[path] = sha256_of(file)
                    sizes += status.st_size
                    states[path] = status
        except OSError:
            continue
    return ({"size": sizes, "sha256": hashes} if states else {}), states


def _refuse_second_name(path: Path, status: os.stat_result) -> None:
    """The owner of a directory can give a file of somebody else a name in it."""
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and os.geteuid() == 0:
        raise RestoreError(f"{path} has a second name elsewhere; its owner and mode were not changed")
