# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop a container, and have it run again afterwards, whatever becomes of the work or this process."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath
from typing import Iterator, List, Optional, Sequence, Tuple

from ..errors import RestoreError, SourceError
from ..guard import Guard
from ..halts import Halt
from ..standstill import Standstill, stays
from . import heartbeat
from .container import Address, Container
from .daemon import Daemon, NoContainerError
from .locate import host_directory
from .watchdog import Watchdog

_STOP_SECONDS = 30
_START_SECONDS = 60.0
_PAUSE = 0.2


class ContainerStandstill(Standstill):
    """A container. urls are servers to ask for a heartbeat, by default all its ports; paths are asked there."""

    def __init__(
        self, daemon: Daemon, container: Container, urls: Sequence[str], paths: Sequence[str], health: Sequence[str]
    ) -> None:
        super().__init__(f"container {container.name}", container.is_running, health)
        self.container = container
        self._daemon = daemon
        self._wanted = heartbeat.endpoints(urls, paths)
        self._paths = paths
        self._mapped: Optional[Tuple[Path, PurePosixPath]] = None

    def refuse(self) -> None:
        name = self.container.name
        if self.was_running and self.container.is_removed_on_stop:
            raise RestoreError(
                f"container {name} was started with --rm and would be gone when stopped; stop it yourself"
            )
        if self.container.is_paused:
            raise RestoreError(f"container {name} is paused; let it go on, or stop it, first")

    @property
    def commands(self) -> Tuple[List[str], List[str]]:
        return ["docker", "stop", self.container.name], ["docker", "start", self.container.name]

    def _guard(self) -> Guard:
        watchdog = watchdog_of(self._daemon.docker_host, self.container)
        halt = Halt(container=self.container.id, is_stopped=True)
        return Guard(watchdog.connect, watchdog.undo, halt=halt)

    def _order_stop(self) -> None:
        self._daemon.stop(self.container, _STOP_SECONDS)

    def _order_start(self) -> None:
        self._daemon.start(self.container)

    def host_directory(self, directory: PurePosixPath) -> Path:
        found = host_directory(self._daemon, self.container, directory)
        self._mapped = found, directory
        return found

    def refuse_unseen(self, root: Path, staged: Sequence[Path]) -> None:
        if not self._mapped:
            return
        found, directory = self._mapped
        for file in staged:
            if not self._daemon.path_status(self.container, str(directory / file.relative_to(root))):
                raise RestoreError(
                    f"{found} of this host is not what container {self.container.name} has at {directory}; "
                    "restore on the host of its Docker engine, or tell where to with dest"
                )

    def _may_run(self) -> bool:
        try:
            return self._is_up()
        except NoContainerError:
            return False
        except SourceError:
            return True

    def _check(self) -> None:
        name = self.container.name
        wanted = self._wanted or self._own_endpoints()
        if not wanted:
            if not stays(self._is_up):
                raise RestoreError(f"container {name} did not stay up after it was started{self._last_words()}")
        elif not heartbeat.wait_for(wanted, _START_SECONDS, self._is_up):
            asked = " or ".join(str(address) for address in wanted)
            raise RestoreError(
                f"container {name} gave no heartbeat at {asked} after it was started{self._last_words()}"
            )

    def _own_endpoints(self) -> List[heartbeat.Endpoint]:
        """Its address may be another one after a start."""
        if not self._paths or not self._daemon.is_local:
            return []
        servers = [f"http://{address}" for address in self._daemon.look(self.container.id).addresses]
        return heartbeat.endpoints(servers, self._paths)

    def _is_up(self) -> bool:
        return self._daemon.look(self.container.id).is_running

    def _last_words(self) -> str:
        try:
            words = self._daemon.last_words(self.container)
        except SourceError:
            return ""
        return f"; its last words: {words}" if words else ""


def watchdog_of(docker_host: Optional[str], container: Container) -> Watchdog:
    """What starts a container that was stopped, also one that is still about to stop."""
    return Watchdog(
        docker_host,
        container,
        is_bad=lambda found: not found.is_running,
        help_it=Daemon.start,
        settle_seconds=_STOP_SECONDS + _PAUSE,
    )


@contextlib.contextmanager
def standstill(
    address: Address, urls: Sequence[str] = (), paths: Sequence[str] = (), health: Sequence[str] = ()
) -> Iterator[Standstill]:
    """A container to stop and start within; in the end it runs when it did so at the beginning.

    Raises SourceError when there is no such container.
    """
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(address.docker_host))
        yield stack.enter_context(ContainerStandstill(daemon, daemon.find(address.name), urls, paths, health))
