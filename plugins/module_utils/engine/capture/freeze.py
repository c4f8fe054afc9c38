# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy files while their application runs, stop it for a moment, copy what has changed, and let it go on."""

from __future__ import annotations

import abc
import contextlib
import time
from pathlib import Path
from typing import Callable, ContextManager, Dict, Iterator, List, Optional, Sequence

from ..containers.container import Address
from ..containers.daemon import Daemon
from ..containers.pause import paused
from ..errors import BackupError, SourceError
from ..guard import Guard
from ..pause import Pause, guarded_pause
from ..running import Process
from ..services import Service
from .base import Held, Way
from .openers import files_below, openers
from .stopping import refuse, stopped
from .worker import Worker, working


class Subject(abc.ABC):
    """What stands still."""

    @abc.abstractmethod
    def refuse(self, directory: Path) -> None:
        """Raise SourceError when it cannot be stopped, as far as that is known before."""

    @abc.abstractmethod
    def paused(self, worker: Worker, directory: Path, paths: Sequence[str], limit: float) -> ContextManager[Pause]:
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

    def obstacle(self, directory: Path) -> Optional[str]:
        try:
            self._subject.refuse(directory)
        except BackupError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def hold(self, directory: Path, paths: Sequence[str], scratch: Path, alive: Callable[[], None]) -> Iterator[Held]:
        self._subject.refuse(directory)
        with working(directory, paths, scratch, alive, timeout=self._timeout) as worker:
            worker.copy()
            with self._subject.paused(worker, directory, paths, self._limit) as pause:
                worker.refresh(pause.deadline)
                while pause.others():
                    worker.refresh(pause.deadline)
            warnings = [*worker.finish(), *self._subject.warnings()]
        yield Held(worker.root, pause.milliseconds, warnings)


class ContainerSubject(Subject):
    """All processes of a container."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def refuse(self, directory: Path) -> None:  # noqa: ARG002 - the same for all of them
        with Daemon(self._address.docker_host) as daemon:
            daemon.find(self._address.name)

    @contextlib.contextmanager
    def paused(
        self,
        worker: Worker,  # noqa: ARG002 - the same
        directory: Path,  # noqa: ARG002
        paths: Sequence[str],  # noqa: ARG002
        limit: float,
    ) -> Iterator[Pause]:
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

    def refuse(self, directory: Path) -> None:  # noqa: ARG002 - the same
        service = Service(self._name)
        found = _processes_of(service)
        if service.is_up and not found and not _has_freezer(service.look()):
            raise SourceError(
                f"the processes of {service.name} cannot be found; leave out service to freeze who has the files open"
            )
        refuse(service.name, found)

    @contextlib.contextmanager
    def paused(
        self,
        worker: Worker,  # noqa: ARG002 - the same
        directory: Path,  # noqa: ARG002
        paths: Sequence[str],  # noqa: ARG002
        limit: float,
    ) -> Iterator[Pause]:
        service = Service(self._name)
        state = service.look()
        if not service.is_up or state["FreezerState"] == "frozen":
            yield Pause(time.monotonic() + limit)
        elif _has_freezer(state):
            with _frozen(service, limit) as pause:
                yield pause
        else:
            with stopped(service.name, lambda: _processes_of(service), limit) as pause:
                yield pause


class OpenersSubject(Subject):
    """Every process that has one of the files open or mapped."""

    def __init__(self) -> None:
        self._warnings: List[str] = []

    def refuse(self, directory: Path) -> None:
        """Nothing is known before the paths are."""

    @contextlib.contextmanager
    def paused(self, worker: Worker, directory: Path, paths: Sequence[str], limit: float) -> Iterator[Pause]:
        def find() -> List[Process]:
            return openers(files_below(directory, paths), {worker.pid}).found

        found = openers(files_below(directory, paths), {worker.pid})
        self._warn(directory, len(found.found), found.hidden)
        with stopped(f"the application of {directory}", find, limit) as pause:
            yield pause

    def warnings(self) -> List[str]:
        return self._warnings

    def _warn(self, directory: Path, found: int, hidden: int) -> None:
        if not found and hidden:
            raise SourceError(
                f"no process that can be seen has the files of {directory} open, and {hidden} others cannot be "
                "looked at; run it as root, or name the service or container"
            )
        self._warnings = [] if found else [f"no process had the files of {directory} open, so none was stopped"]
        if hidden:
            self._warnings.append(f"{hidden} processes could not be looked at for open files")


@contextlib.contextmanager
def _frozen(service: Service, limit: float) -> Iterator[Pause]:
    pause = Pause(time.monotonic() + limit)

    def thaw() -> bool:
        service.systemctl("thaw", service.name)
        return True

    with guarded_pause(
        service.name,
        pause,
        lambda seconds: Guard(lambda: None, thaw, seconds),
        lambda: _freeze(service),
        lambda: _thaw(service),
    ):
        yield pause


def _has_freezer(state: Dict[str, str]) -> bool:
    # Systemd 252 says CanFreeze also where the host has version 1 of control groups, and then cannot.
    freezer = Path("/sys/fs/cgroup", state["ControlGroup"].lstrip("/"), "cgroup.freeze")
    return state["CanFreeze"] == "yes" and freezer.exists()


def _freeze(service: Service) -> None:
    service.systemctl("freeze", service.name)


def _thaw(service: Service) -> None:
    try:
        service.systemctl("thaw", service.name)
    except SourceError:
        # The guard may have done it, or the service may have ended.
        if service.look()["FreezerState"] in ("frozen", "freezing"):
            raise


def _processes_of(service: Service) -> List[Process]:
    found = (Process.of(number) for number in service.processes())
    return [process for process in found if process]
