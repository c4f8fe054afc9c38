# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy files while their application runs, stop it for a moment, copy what has changed, and let it go on."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Callable, ContextManager, Iterator, List, Optional, Sequence

from ..containers.container import Address
from ..containers.daemon import Daemon
from ..containers.pause import paused
from ..errors import BackupError, SourceError
from ..pause import Pause
from ..running import Process
from ..services import Service
from .base import Held, Way
from .freezer import frozen, has_freezer, is_frozen
from .openers import Openers, files_below, openers
from .stopping import refuse, stopped
from .worker import working


@dataclasses.dataclass(frozen=True)
class Files:
    """What is held still: paths below a directory, and the number of the process that copies them."""

    directory: Path
    paths: Sequence[str]
    copier: int


class Subject(abc.ABC):
    """What stands still."""

    @abc.abstractmethod
    def refuse(self) -> None:
        """Raise SourceError when it cannot be stopped, as far as that is known before."""

    @abc.abstractmethod
    def told(self, files: Files) -> None:
        """What is to be held still, before it is paused."""

    @abc.abstractmethod
    def paused(self, limit: float) -> ContextManager[Pause]:
        """Have it stand still for at most limit seconds."""

    def warnings(self) -> List[str]:
        """What was found then that one should know."""
        return []


class Freeze(Way):
    """Holds what the subject is still, for at most limit seconds. timeout is the longest silence of the copy."""

    name = "freeze"

    def __init__(self, subject: Subject, limit: float, timeout: float) -> None:
        self._subject = subject
        self._limit = limit
        self._timeout = timeout

    def obstacle(self, directory: Path) -> Optional[str]:  # noqa: ARG002 - the same for all
        try:
            self._subject.refuse()
        except BackupError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        self._subject.refuse()
        with working(directory, paths, scratch, alive, timeout=self._timeout) as worker:
            worker.copy()
            self._subject.told(Files(directory, paths, worker.pid))
            with self._subject.paused(self._limit) as pause:
                worker.refresh(pause.deadline)
                while pause.others():
                    worker.refresh(pause.deadline)
            warnings = [*worker.finish(), *self._subject.warnings()]
        yield Held(worker.root, pause.milliseconds, warnings)


class ContainerSubject(Subject):
    """All processes of a container."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def refuse(self) -> None:
        with Daemon(self._address.docker_host) as daemon:
            daemon.find(self._address.name)

    def told(self, files: Files) -> None:
        """Its name is enough."""

    @contextlib.contextmanager
    def paused(self, limit: float) -> Iterator[Pause]:
        with Daemon(self._address.docker_host) as daemon:
            found = daemon.find(self._address.name)
            if not found.is_running:
                yield Pause(time.monotonic() + limit)
                return
            with paused(daemon, found, limit) as pause:
                yield pause


class ServiceSubject(Subject):
    """All processes of a service of systemd: by its freezer, or where there is none, by SIGSTOP."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refuse(self) -> None:
        service = Service(self._name)
        found = _processes_of(service)
        if service.is_up and not found and not has_freezer(service.look()):
            raise SourceError(
                f"the processes of {service.name} cannot be found; leave out service to freeze who has the files open"
            )
        refuse(service.name, found)

    def told(self, files: Files) -> None:
        """Its name is enough."""

    @contextlib.contextmanager
    def paused(self, limit: float) -> Iterator[Pause]:
        service = Service(self._name)
        state = service.look()
        if not service.is_up or is_frozen(state):
            yield Pause(time.monotonic() + limit)
        elif has_freezer(state):
            with frozen(service, limit) as pause:
                yield pause
        else:
            with stopped(service.name, lambda: _processes_of(service), limit) as pause:
                yield pause


class OpenersSubject(Subject):
    """Every process that has one of the files open or mapped."""

    def __init__(self) -> None:
        self._files = Files(Path("/"), [], 0)
        self._warnings: List[str] = []

    def refuse(self) -> None:
        """Nothing is known before the files are."""

    def told(self, files: Files) -> None:
        self._files = files

    @contextlib.contextmanager
    def paused(self, limit: float) -> Iterator[Pause]:
        self._warn(self._look())
        with stopped(f"the application of {self._files.directory}", lambda: self._look().found, limit) as pause:
            yield pause

    def warnings(self) -> List[str]:
        return self._warnings

    def _look(self) -> Openers:
        return openers(files_below(self._files.directory, self._files.paths), {self._files.copier})

    def _warn(self, seen: Openers) -> None:
        directory, hidden = self._files.directory, seen.hidden
        if not seen.found and hidden:
            raise SourceError(
                f"no process that can be seen has the files of {directory} open, and {hidden} others cannot be "
                "looked at; run it as root, or name the service or container"
            )
        self._warnings = [] if seen.found else [f"no process had the files of {directory} open, so none was stopped"]
        if hidden:
            self._warnings.append(f"{hidden} processes could not be looked at for open files")


def _processes_of(service: Service) -> List[Process]:
    found = (Process.of(number) for number in service.processes())
    return [process for process in found if process]
