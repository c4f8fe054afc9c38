# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of a backup of LMDB."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ...capture.choice import COLD, FREEZE, SNAPSHOT
from ...errors import UsageError
from ...nrepl.address import Address
from ...processes import DEFAULT_TIMEOUT, check_timeout
from .copying import AUTO, HOT, NREPL, OPTIMISTIC

if TYPE_CHECKING:
    from .owning import OwningProcess

# Those by which all files are held still together.
HELD = (FREEZE, COLD, SNAPSHOT)
_METHODS = (AUTO, HOT, OPTIMISTIC, NREPL, *HELD)
_COMPACTING = (AUTO, HOT, NREPL)


@dataclasses.dataclass(frozen=True)
class LmdbOptions:
    """What a job of type lmdb can say. timeout is the longest silence of a child process, in seconds.

    path is on this host, or in the container that is named. library is the shared library of a fork, or the jar,
    uberjar or wheel of Datalevin that brings one. service or container is the application, freeze_timeout for how many
    seconds it may stand still. One of port, socket and port_file, with host
    and tls_keys, is the nREPL server of a process that has Datalevin open, connection the var that holds it, directory
    where that process puts its copy.
    """

    path: str
    method: str = "auto"
    compact: bool = False
    include: List[str] = dataclasses.field(default_factory=list)
    library: Optional[str] = None
    service: Optional[str] = None
    container: Optional[str] = None
    docker_host: Optional[str] = None
    freeze_timeout: Optional[float] = None
    host: Optional[str] = None
    port: Optional[int] = None
    socket: Optional[str] = None
    port_file: Optional[str] = None
    tls_keys: Optional[str] = None
    connection: Optional[str] = None
    directory: Optional[str] = None
    timeout: int = DEFAULT_TIMEOUT

    def check(self) -> None:
        """Raise UsageError for options that make no sense."""
        if self.method not in _METHODS:
            raise UsageError(f"method {self.method!r} is not known for lmdb; choose one of {', '.join(_METHODS)}")
        if self.compact and self.method not in _COMPACTING:
            raise UsageError(f"method {self.method} copies the file as it is; leave out compact")
        check_timeout(self.timeout)
        if self.docker_host is not None and self.container is None:
            raise UsageError("docker_host is of use only together with container")
        if self.container and self.method == SNAPSHOT:
            raise UsageError("method snapshot takes a path of this host; leave out container")

    def owning_process(self) -> Optional[OwningProcess]:
        """The process that has Datalevin open, if they tell of one.

        Raises UsageError for what makes no sense.
        """
        address = Address(self.host, self.port, self.socket, self.port_file, self.tls_keys)
        is_told = address != Address() or self.connection is not None or self.directory is not None
        if not is_told and self.method != NREPL:
            return None
        if self.method not in (AUTO, NREPL):
            raise UsageError(f"method {self.method} asks no server; leave out what tells where one is")
        if self.container:
            raise UsageError("an nREPL server is asked for a path of this host; leave out container")
        from .owning import OwningProcess  # noqa: PLC0415 - loaded when needed

        process = OwningProcess(address, self.connection, Path(self.directory or tempfile.gettempdir()))
        process.check(Path(self.path))
        return process
