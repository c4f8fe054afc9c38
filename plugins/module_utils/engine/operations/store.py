# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put a published backup into stores beside the repository."""

from __future__ import annotations

from typing import List

from ..errors import BackupError
from ..repository.manifest import Manifest
from ..repository.published import PublishedBackup
from ..stores.registry import table_of
from ..stores.table import LARGEST, Row, Store, put
from ..stream.stages import Bytes, Stage
from .progress import silent
from .proof import load_record


class _Collector(Stage):
    """Keeps all in memory."""

    def __init__(self) -> None:
        super().__init__(None)
        self.data = bytearray()

    def write(self, data: Bytes) -> int:
        self.data += data
        return len(data)


def put_into(stores: List[Store], backup: PublishedBackup, manifest: Manifest, timeout: float) -> List[str]:
    """Add a row of the backup to each store; returns their names.

    Raises BackupError with a sentence about each that did not take it; the others did.
    """
    row = _row(backup, manifest)
    stored, failed = [], []
    for store in stores:
        try:
            put(table_of(store), row, timeout)
            stored.append(str(store))
        except BackupError as error:
            failed.append(str(error))
    if failed:
        raise BackupError(f"backup {backup.id} is published, but not in every store: {'; '.join(failed)}")
    return stored


def _row(backup: PublishedBackup, manifest: Manifest) -> Row:
    """Raises BackupError when it is too large for one."""
    (record,) = manifest.files
    if record.size > LARGEST:
        raise BackupError(
            f"backup {backup.id} is published, but no store takes its {record.size} bytes; a row holds {LARGEST}"
        )
    collector = _Collector()
    load_record(backup, record, manifest.compression.type, collector, silent)
    return Row(f"{backup.job}/{backup.id}", manifest.timestamp_start, record.sha256, bytes(collector.data))
