# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let an application go on that a run left frozen or stopped, because it was killed together with its guard."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Callable, Iterator, List, Optional

from ..capture.freezer import thaw as thaw_service
from ..capture.stopping import let_go_on
from ..containers import pause, standstill
from ..containers.container import Address
from ..containers.daemon import Daemon, NoContainerError
from ..errors import BackupError, LockedError, SourceError
from ..guard import undo_by_all_means
from ..halts import Halt, left_in
from ..jobs import Job
from ..repository.repository import JobDirectory
from ..running import Process
from ..services import Service, Starter

# Systemd gives five minutes to all that is done after a service was killed.
_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Thawed:
    """What was done in sentences, and what could not be done. under_way: a run has the lock, and sees to all itself."""

    done: List[str]
    failed: List[str]
    under_way: bool = False


def thaw(job: Job) -> Thawed:
    """Undo what a killed run of the job has left. Nothing is done while one is under way."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(job.directory.held())
            stack.enter_context(directory.lock())
        except LockedError:
            return Thawed([], [], under_way=True)
        return thaw_held(directory, job.source.container)


def thaw_held(directory: JobDirectory, container: Optional[Address]) -> Thawed:
    """The same for the directory of a job that is locked already; container is that of its source, if any."""
    done, failed = [], []
    docker_host = container.docker_host if container else None
    with left_in(directory.place) as notes:
        for note in notes:
            halt = note.halt
            told = f"{halt} was left {'stopped' if halt.is_stopped else 'frozen'} by a killed run"
            try:
                if halt.is_here:
                    _help(halt, docker_host)
                    done.append(f"{told} and {'was started' if halt.is_stopped else 'goes on'}")
            except BackupError as error:
                failed.append(f"{told} and could not be helped: {error}")
                continue
            note.remove()
    return Thawed(done, failed)


def _help(halt: Halt, docker_host: Optional[str]) -> None:
    """Raises SourceError."""
    with _helper(halt, docker_host) as undo:
        errors: List[str] = []
        if not undo_by_all_means(lambda: _tried(undo, errors), _SECONDS):
            raise SourceError(errors[-1] if errors else f"it took longer than {_SECONDS:g} seconds")


def _tried(undo: Callable[[], bool], errors: List[str]) -> bool:
    try:
        return undo()
    except BackupError as error:
        errors.append(str(error))
        raise


@contextlib.contextmanager
def _helper(halt: Halt, docker_host: Optional[str]) -> Iterator[Callable[[], bool]]:
    """What is called until it returns True."""
    if halt.container:
        with Daemon(docker_host) as daemon:
            yield _helper_of_container(daemon, halt)
    elif halt.service:
        yield _helper_of_service(Service(halt.service), halt.is_stopped)
    else:
        processes = [Process(int(number), born) for number, born in halt.processes.items() if number.isdigit()]
        yield lambda: let_go_on(processes)


def _helper_of_container(daemon: Daemon, halt: Halt) -> Callable[[], bool]:
    try:
        found = daemon.look(halt.container or "")
    except NoContainerError:
        return lambda: True
    known = standstill.watchdog_of if halt.is_stopped else pause.watchdog_of
    watchdog = known(daemon.docker_host, found)
    watchdog.connect()
    return watchdog.undo


def _helper_of_service(service: Service, is_stopped: bool) -> Callable[[], bool]:
    if is_stopped:
        return Starter(service).undo

    def undo() -> bool:
        thaw_service(service)
        return True

    return undo
