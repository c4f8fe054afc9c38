# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datalevin copied by the process that has it open, over its nREPL server, into a directory that both can reach.

Source: datalevin.core/copy of Datalevin 1.2, which is mdb_env_copy2 out of a read transaction of its own. The open
database is looked up by its directory, as one process must not open it twice, or is what a var holds.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import List, Optional

from ...errors import EvaluationError, SourceError, UsageError
from ...nrepl.address import Address
from ...nrepl.client import Client
from ...nrepl.deadline import Deadline
from ...paths import anchored
from ...repository.staging import Staging, WorkingDirectory
from ..exchange import exchange, take
from ..nrepl import forms, quoting
from ..nrepl.forms import fill
from ..nrepl.told import strange, unquoted
from .copying import HEAD, Copy, Look, check_whole, position_of
from .format import KNOWN, read_metas

# For how many milliseconds a question waits for the end of the copy.
_WAIT = 500
# Seconds for a look at whether the server answers.
_LOOK = 5.0
_VERSION = re.compile(r"Datalevin [0-9A-Za-z.+-]{1,40}", re.ASCII)
_ADVICE = "it needs a directory that is the same one for both: name one with directory"

# The copy is made in a thread, so that one can ask how it is going. What both evaluations share is in a var of which
# every session has a value of its own.
_BEGIN = """
(let [copied (promise)
      work (bound-fn []
             (deliver copied
               (try
                 <copied>
                 (catch Throwable problem problem))))
      thread (Thread. ^Runnable work "embedded.db_backup copy")]
  (set! *command-line-args* copied)
  (.setDaemon thread true)
  (.start thread)
  "")"""

_FETCH = """
(let [told (deref *command-line-args* <wait> "")]
  (when (instance? Throwable told) (throw told))
  told)"""

_COPIED = """
(let [canonical (fn [path] (.getCanonicalPath (java.io.File. ^String path)))
      path (canonical <path>)
      version (resolve 'datalevin.constants/version)
      database <database>
      open (canonical (<dir> database))]
  (when-not (= path open) (throw (ex-info (str "the database that it has open is in " open) {})))
  (<copy> database <directory> <compact>)
  (str "Datalevin " (if version @version "unknown")))"""

_OPEN_THERE = """
(let [handles (resolve 'datalevin.binding.cpp.lifecycle/open-local-kv-handle)]
  (when-not handles
    (throw (ex-info "it has no Datalevin of a version that tells what is open; name the var with connection" {})))
  (or (handles path)
      (throw (ex-info (str "no database is open in " path " in this process") {}))))"""

_HELD_BY_VAR = """
(let [held <held>]
  (if (instance? clojure.lang.IDeref held) (<datalog_kv> held) held))"""


@dataclasses.dataclass(frozen=True)
class OwningProcess:
    """The nREPL server in the process that has the database open; connection names the var that holds it.

    directory is where the copy lies while it is taken.
    """

    address: Address
    connection: Optional[str]
    directory: Path

    @property
    def places(self) -> List[Path]:
        """Paths of this host that a run needs for it."""
        socket = self.address.socket
        return [self.directory, *([Path(socket).parent] if socket is not None else [])]

    def check(self, path: Path) -> None:
        """Raise UsageError for what makes no sense with this path of the database."""
        self.address.check()
        if self.connection is not None and not quoting.is_qualified(self.connection):
            raise UsageError(f"connection {self.connection!r} is not a name with its namespace, such as my.app/conn")
        if not self.directory.is_absolute():
            raise UsageError(f"directory {self.directory} is not absolute")
        if path in (self.directory, *self.directory.parents):
            raise UsageError(f"directory {self.directory} is in {path}, which is backed up; give one elsewhere")

    def obstacle(self) -> Optional[str]:
        """Why the server does not answer; None when it does."""
        try:
            with Client(self.address, Deadline(_LOOK)):
                return None
        except SourceError as error:
            return str(error)

    def copy(self, look: Look, staging: Staging, compact: bool, timeout: float) -> Copy:
        """Have it copied.

        timeout is for how many seconds the copy may not grow. Raises SourceError.
        """
        location, before = look.location, look.meta
        status = os.stat(location.data)
        head = bytearray()
        with exchange(self.directory) as place:
            version = self._copied_to(place, look, compact, timeout)
            with staging.store(location.path, status) as stream:

                def write(chunk: bytes) -> int:
                    head.extend(chunk[: HEAD - len(head)])
                    return stream.write(chunk)

                take(place, location.place.data, write, _ADVICE)
        after = read_metas(location.data, KNOWN)[0]
        copied = check_whole(location, bytes(head), staging.records[-1].size)
        is_of_then = compact or before.txnid <= copied.txnid <= after.txnid
        if copied.data_version != before.data_version or not is_of_then:
            raise SourceError(f"what the server copied is not {location.data} as it was in this run")
        position = position_of(copied, before, after, compact)
        return Copy(dataclasses.replace(look.environment(), position=position), version)

    def _copied_to(self, place: WorkingDirectory, look: Look, compact: bool, timeout: float) -> str:
        """Wait until it is there; returns the version of Datalevin."""
        copied = fill(
            _COPIED,
            path=quoting.string(str(look.location.directory)),
            database=self._database(),
            dir=forms.resolved("datalevin.core/dir", "resolve"),
            copy=forms.resolved("datalevin.core/copy", "resolve"),
            directory=quoting.string(str(place.path)),
            compact="true" if compact else "false",
        )
        silence, size = _Silence(timeout), 0
        try:
            with Client(self.address, silence) as client:
                told = _ask(client, fill(_BEGIN, copied=copied))
                while not told:
                    told = _ask(client, fill(_FETCH, wait=str(_WAIT)))
                    now = _size(place, look.location.place.data)
                    if now != size:
                        size = now
                        silence.restart()
        except EvaluationError as error:
            raise EvaluationError(f"{look.location.data} was not copied by its application: {error}") from error
        if not _VERSION.fullmatch(told):
            raise strange(told)
        return f"{told} over nREPL"

    def _database(self) -> str:
        if self.connection is None:
            return _OPEN_THERE
        datalog_kv = forms.resolved("datalevin.core/datalog-kv", "resolve")
        return fill(_HELD_BY_VAR, held=forms.resolved(self.connection, "resolve"), datalog_kv=datalog_kv)


class _Silence(Deadline):
    """Over when it was not broken for so many seconds."""

    def restart(self) -> None:
        """It was broken."""
        super().__init__(self.seconds)


def _ask(client: Client, code: str) -> str:
    return unquoted(client.evaluate(code).only_value())


def _size(place: WorkingDirectory, name: str) -> int:
    try:
        return os.stat(anchored(place.descriptor, name), follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
