# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a job as it is run on its host: its server waited for, hooks called, tried again when it fails."""

from __future__ import annotations

import sys
import time
from typing import Dict, Optional

from .. import hooks
from ..errors import BackupError, Interrupted, NotFoundError, UsageError, sentence
from ..jobs import Job
from ..repository.state import Attempt
from ..tables import printable
from . import backup
from .backup import Outcome
from .inform import settled
from .progress import Progress, silent

_PAUSE = 1.0


def run(job: Job, progress: Progress = silent, unattended: bool = False) -> Outcome:
    """Back up, with the hooks of the job. Unattended, it waits for its server and tries more than once.

    Raises BackupError as back_up does, and when a hook fails.
    """
    outcome = _back_up(job, progress, unattended)
    made = {"id": outcome.backup["id"], "path": str(outcome.path), "changed": str(outcome.changed).lower()}
    try:
        hooks.call_all("after", job.routine.after, {**_facts(job), **made}, job.routine.hook_timeout)
    except BackupError as error:
        # To back up once more would not help.
        raise BackupError(f"backup {outcome.backup['id']} is there, but {error}") from error
    return outcome


def alert(job: Job, of_drill: bool = False) -> bool:
    """Call the programs of on_failure, with what is known of the last run or drill; returns whether there are any."""
    state = job.directory.state()
    last = state.last_drill if of_drill else settled(job.directory, state.last_attempt)
    facts = {**_facts(job), "what": "drill" if of_drill else "run", **_told(last)}
    hooks.call_all("on_failure", job.routine.on_failure, facts, job.routine.hook_timeout)
    return bool(job.routine.on_failure)


def _back_up(job: Job, progress: Progress, unattended: bool) -> Outcome:
    left = job.routine.attempts if unattended else 1
    while True:
        left -= 1
        try:
            return backup.back_up(job, progress, lambda: _prepare(job, unattended))
        except (Interrupted, NotFoundError, UsageError):
            raise
        except (BackupError, OSError) as error:
            if not left:
                raise
            told = sentence(error) if isinstance(error, OSError) else str(error)
        pause = job.routine.attempt_pause
        sys.stderr.write(f"{job.settings.name}: {printable(told)}; {left} more to try, the next in {pause} s\n")
        sys.stderr.flush()
        time.sleep(pause)


def _prepare(job: Job, unattended: bool) -> None:
    if unattended:
        _wait(job)
    hooks.call_all("before", job.routine.before, _facts(job), job.routine.hook_timeout)


def _wait(job: Job) -> None:
    """Until its server answers. The run itself tells what is wrong with one that does not in time."""
    deadline = time.monotonic() + job.routine.wait
    while job.source.obstacle() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _facts(job: Job) -> Dict[str, Optional[str]]:
    return {"job": job.settings.name, "repository": str(job.directory.path.parent)}


def _told(last: Optional[Attempt]) -> Dict[str, Optional[str]]:
    return {"status": last.status, "at": last.at, "id": last.id, "message": last.message} if last else {}
