# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Get a backup back from a store beside the repository."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Iterator, Optional

from .. import times
from ..interrupts import work_goes_on
from ..jobs import Job, Settings
from ..repository.repository import JobDirectory
from ..repository.retention import Policy
from ..routine import Routine
from ..sources.nrepl.stored import StoredText
from ..stores.registry import table_of
from ..stores.table import Store, get
from ..stream.compression import Compression
from .backup import make
from .progress import silent

_TIMEOUT = 3600


@contextlib.contextmanager
def fetched(store: Store, job_name: str, backup_id: Optional[str]) -> Iterator[JobDirectory]:
    """A job with one backup, made of the row of this id or the newest one; it is gone afterwards.

    Raises NotFoundError, CorruptError when the row is not what was stored, UsageError.
    """
    row = get(table_of(store), job_name, backup_id, _TIMEOUT)
    started = times.from_id(row.backup_id)
    with tempfile.TemporaryDirectory(prefix="db-backup-") as above:
        settings = Settings(job_name, StoredText.type, str(Path(above).resolve()), "none")
        job = Job(settings, Policy(), Routine(), StoredText(str(store), row.data), Compression("none"), _TIMEOUT)
        job.directory.create()
        with job.directory.staging(started, job.compression) as staging:
            make(job, staging, started, silent, annotation={"stored_at": row.created_at})
        # What was published is but a copy of the row.
        work_goes_on()
        yield job.directory
