# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stop a container for a restore, and have it run again afterwards, whatever becomes of the restore or this process."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path, PurePosixPath
from typing import Iterator, List, Optional, Sequence, Tuple

from ..errors import BackupError, RestoreError, SourceError
from ..interrupts import held_back
from . import heartbeat
from .container import Address, Container
from .daemon import Daemon, NoContainerError
from .guard import Guard
from .locate import host_directory
from .watchdog import Watchdog

_STOP_SECONDS = 30
_START_SECONDS = 60.0
# Without a heartbeat to ask for: a server that cannot open its data ends soon.
_STEADY_SECONDS = 3.0
_PAUSE = 0.2


class StillRunningError(RestoreError):
    """What was started on new files is not well and cannot be stopped: its files must stay what they are."""


class Standstill:
    """A container that can be stopped and started. What was not running before is never started.

    urls are servers to ask for a heartbeat, by default all its ports; paths are asked there.
    """

    def __init__(self, daemon: Daemon, container: Container, urls: Sequence[str], paths: Sequence[str]) -> None:
        self.container = container
        self._daemon = daemon
        self._wanted = heartbeat.endpoints(urls, paths)
        self._paths = paths
        self._guard: Optional[Guard] = None
        self._mapped: Optional[Tuple[Path, PurePosixPath]] = None

    @property
    def was_running(self) -> bool:
        """Whether it ran, or was paused, at the beginning."""
        return self.container.is_running

    def refuse(self) -> None:
        """Raise RestoreError when it must not be stopped."""
        name = self.container.name
        if self.was_running and self.container.is_removed_on_stop:
            raise RestoreError(
                f"container {name} was started with --rm and would be gone when stopped; stop it yourself"
            )
        if self.container.is_paused:
            raise RestoreError(f"container {name} is paused; let it go on, or stop it, before restoring")

    def stop(self) -> None:
        """Stop it, from now on guarded: should this process die, it is started again."""
        if not self.was_running:
            return
        if not self._guard:
            watchdog = Watchdog(
                self._daemon.docker_host,
                self.container,
                is_bad=lambda found: not found.is_running,
                help_it=Daemon.start,
                settle_seconds=_STOP_SECONDS + _PAUSE,
            )
            self._guard = Guard(watchdog.connect, watchdog.undo)
        self._daemon.stop(self.container, _STOP_SECONDS)

    def begin_exchange(self) -> None:
        """Its files are exchanged from now on: should this process die, it had better not run on half of them."""
        self._guarded(False)

    def start(self) -> None:
        """Start it again when it was running: its files are all of one kind now.

        Raises RestoreError when it does not stay up or gives no heartbeat in time; then it is stopped again, or
        the error is a StillRunningError.
        """
        if not self.was_running:
            return
        self._guarded(True)
        try:
            self._daemon.start(self.container)
            self._check()
        except BaseException as error:
            self._guarded(False)
            with held_back():
                self._stop_again(error)
            raise

    def finish(self) -> None:
        """Have it run as it did before."""
        if not self._guard:
            return
        self._daemon.start(self.container)
        self._guard.release()
        self._guard = None

    def host_directory(self, directory: PurePosixPath) -> Path:
        """Where on this host the directory of the container is. Raises as locate.host_directory does."""
        found = host_directory(self._daemon, self.container, directory)
        self._mapped = found, directory
        return found

    def refuse_unseen(self, root: Path, staged: Sequence[Path]) -> None:
        """Raise RestoreError unless the container sees what was made below root, where its files are thought to be."""
        if not self._mapped:
            return
        found, directory = self._mapped
        for file in staged:
            if not self._daemon.path_status(self.container, str(directory / file.relative_to(root))):
                raise RestoreError(
                    f"{found} of this host is not what container {self.container.name} has at {directory}; "
                    "restore on the host of its Docker engine, or tell where to with dest"
                )

    def _stop_again(self, error: BaseException) -> None:
        try:
            self._daemon.stop(self.container, _STOP_SECONDS)
        except SourceError as refusal:
            if self._may_run():
                raise StillRunningError(f"{error}; it could not be stopped: {refusal}") from error

    def _may_run(self) -> bool:
        try:
            return self._is_up()
        except NoContainerError:
            return False
        except SourceError:
            return True

    def _guarded(self, guarded: bool) -> None:
        if self._guard:
            self._guard.leave_as_it_is(not guarded)

    def _check(self) -> None:
        name = self.container.name
        wanted = self._wanted or self._own_endpoints()
        if not wanted:
            if not self._is_steady():
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

    def _is_steady(self) -> bool:
        deadline = time.monotonic() + _STEADY_SECONDS
        while self._is_up() and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        return self._is_up()

    def _is_up(self) -> bool:
        return self._daemon.look(self.container.id).is_running

    def _last_words(self) -> str:
        try:
            words = self._daemon.last_words(self.container)
        except SourceError:
            return ""
        return f"; its last words: {words}" if words else ""


@contextlib.contextmanager
def standstill(address: Address, urls: Sequence[str] = (), paths: Sequence[str] = ()) -> Iterator[Standstill]:
    """A container to stop and start within; in the end it runs when it did so at the beginning.

    Raises SourceError when there is no such container.
    """
    with Daemon(address.docker_host) as daemon:
        held = Standstill(daemon, daemon.find(address.name), urls, paths)
        try:
            yield held
        except BaseException:
            # The error of the work is the one to tell. Where this fails, the guard goes on trying.
            with held_back(), contextlib.suppress(BackupError):
                held.finish()
            raise
        with held_back():
            held.finish()
