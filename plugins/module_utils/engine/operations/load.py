# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Load an export back into the live database of an application, or have a function of the application do so."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from ..errors import CorruptError, EvaluationError, RestoreError, SourceError, UsageError
from ..nrepl.address import Address
from ..nrepl.client import Client
from ..nrepl.deadline import Deadline
from ..processes import DEFAULT_TIMEOUT, check_timeout
from ..repository.manifest import Manifest
from ..repository.repository import JobDirectory
from ..sources.base import Tools
from ..sources.nrepl import loading, quoting
from ..sources.nrepl.arrival import Arrival
from ..sources.nrepl.loading import State
from ..sources.nrepl.options import SNAPSHOT, TX_LOG, NreplOptions
from ..sources.nrepl.runtime import Runtime
from ..sources.nrepl.source import NreplSource, runtime_of
from ..stream.stages import CHUNK, InThread, SparseFileWriter
from .choice import Choice, Point, choose
from .progress import Progress, silent
from .proof import corruption_in

# Seconds for having the server forget what was sent.
_FAREWELL = 5.0
_REPLACED = "embedded.db-backup/replaced"
_AS_IT_WAS = "the database is as it was"
_AS_IT_WAS_OR_LOADED = f"{_AS_IT_WAS}, or holds the whole backup"


@dataclasses.dataclass(frozen=True)
class Request:
    """Into which server, and there either the var that holds the connection, or a function of one path.

    timeout is for all that concerns the server, silence the longest one of the process that reads the backup; both in
    seconds. With force, what a database holds is replaced where that can be done in one step.
    """

    address: Address
    connection: Optional[str] = None
    import_function: Optional[str] = None
    force: bool = False
    timeout: int = 3600
    silence: float = DEFAULT_TIMEOUT

    def check(self) -> None:
        """Raise UsageError for what makes no sense."""
        self.address.check()
        check_timeout(self.timeout)
        check_timeout(self.silence)
        if (self.connection is None) == (self.import_function is None):
            raise UsageError("a backup is loaded either into a connection or by import_function; give one of them")
        for name in ("connection", "import_function"):
            value = getattr(self, name)
            if value is not None and not quoting.is_qualified(value):
                raise UsageError(f"{name} {value!r} is not a name with its namespace, such as my.app/{name}")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What was done, or is predicted. before and after are unknown of what a function does.

    replaced is the var that has the database as it was before, until the next one is replaced or the server ends.
    """

    changed: bool
    destination: str
    backup: Dict[str, Any]
    before: Optional[State]
    after: Optional[State]
    replaced: Optional[str]
    warnings: List[str]

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {
            "changed": self.changed,
            "dest": self.destination,
            "before": dataclasses.asdict(self.before) if self.before else None,
            "after": dataclasses.asdict(self.after) if self.after else None,
            "replaced": self.replaced,
            "backup": self.backup,
            "warnings": self.warnings,
        }


def load(
    directory: JobDirectory, point: Point, request: Request, predict: bool = False, progress: Progress = silent
) -> Loaded:
    """Load the backup that is asked for, with all that it builds on; with predict, only look.

    Into a database that holds just what the backup holds nothing is loaded. Raises RestoreError when the database is
    not empty, or did not take the backup, and tells in which state it is; CorruptError for a backup that does not
    verify, of which nothing was sent then; NoConnectionError.
    """
    request.check()
    choice = choose(directory, point)
    with choice.chain.in_use():
        work = _Load.prepare(choice, request)
        with _verified(directory, choice, request.silence, progress) as texts:
            return work.run(texts, predict)


@dataclasses.dataclass(frozen=True)
class _Load:
    """What the steps of one load share. expected is what a database has to hold afterwards."""

    choice: Choice
    request: Request
    options: NreplOptions
    expected: Optional[State]
    warnings: List[str]

    @classmethod
    def prepare(cls, choice: Choice, request: Request) -> _Load:
        """Read and check everything that is small."""
        engine = choice.manifest.engine.name
        if engine != NreplSource.type:
            raise UsageError(f"backup {choice.chain.backup.id} is of {engine}; only exports over nREPL can be loaded")
        server = dataclasses.asdict(request.address)
        if request.import_function is not None:
            options = NreplOptions(**server, function=request.import_function, timeout=request.timeout)
            return cls(choice, request, options, None, choice.passed_over)
        database = _database_of(choice.manifest)
        options = NreplOptions(**server, database=database, connection=request.connection, timeout=request.timeout)
        told = [] if loading.check_loadable(database).keeps_basis else [_new_transactions(database)]
        return cls(choice, request, options, _expected(choice), [*choice.passed_over, *told])

    def run(self, texts: List[Path], predict: bool) -> Loaded:
        """Send the text where it is needed, and have it loaded."""
        with Client(self.request.address, Deadline(self.request.timeout)) as client:
            runtime = runtime_of(self.options, client.describe().versions)
            arrival = Arrival(runtime, self.request.timeout)
            try:
                with self._told(_AS_IT_WAS):
                    before = self._look(client, runtime)
                    may_be_done = self._is_like(before)
                    if may_be_done:
                        arrival.send(client, _chunks(texts))
                        if self._is_done(client, runtime, arrival):
                            return self._result(False, before, before)
                    self._refuse(before)
                    if predict:
                        return self._result(True, before, self.expected)
                    if not may_be_done:
                        arrival.send(client, _chunks(texts))
                return self._result(True, before, self._load(client, runtime, arrival))
            finally:
                self._forget(arrival)

    def _look(self, client: Client, runtime: Runtime) -> Optional[State]:
        """What the database holds; of a function only whether it is there."""
        if self.expected is None:
            client.evaluate(runtime.known(str(self.options.function))).only_value()
            return None
        return loading.state_of(client.evaluate(loading.looked(runtime)))

    def _is_like(self, found: Optional[State]) -> bool:
        """Whether the numbers are those of the backup, as far as they are kept."""
        if found is None or self.expected is None:
            return False
        is_like = found.datoms == self.expected.datoms or self.expected.datoms is None
        return is_like and (found.basis == self.expected.basis or not self._loading.keeps_basis)

    def _is_done(self, client: Client, runtime: Runtime, arrival: Arrival) -> bool:
        """Whether the database holds just what the backup holds."""
        if self.expected is None:
            return False
        code = loading.compared(runtime, arrival.read, self.expected)
        return client.evaluate(arrival.opened(code)).problem() is None

    def _refuse(self, found: Optional[State]) -> None:
        """Raise RestoreError when what is there must not be replaced."""
        if not found or not found.datoms or (self._loading.can_replace and self.request.force):
            return
        hint = "load into a new one, and have the application use it"
        hint = "with force it is replaced" if self._loading.can_replace else hint
        raise RestoreError(f"{self.options.place} is not empty, it holds {found.datoms} datoms; {hint}")

    @property
    def _loading(self) -> loading.Loading:
        return loading.check_loadable(str(self.options.database))

    def _load(self, client: Client, runtime: Runtime, arrival: Arrival) -> Optional[State]:
        if self.expected is None:
            with self._told("what the function has changed is not known"):
                client.evaluate(arrival.opened(arrival.called(runtime))).only_value()
            return None
        code = loading.loaded(runtime, arrival.read, self.expected, self.request.force)
        with self._told(_AS_IT_WAS_OR_LOADED):
            answer = client.evaluate(arrival.opened(code))
        with self._told(_AS_IT_WAS):
            answer.only_value()
        with self._told(_AS_IT_WAS_OR_LOADED):
            loading.check_committed(answer)
        with self._told("the database holds the backup"):
            return loading.state_of(answer)

    def _forget(self, arrival: Arrival) -> None:
        """From a session of its own: the other one may be cut off."""
        with contextlib.suppress(SourceError), Client(self.request.address, Deadline(_FAREWELL)) as client:
            arrival.forget(client)

    def _result(self, changed: bool, before: Optional[State], after: Optional[State]) -> Loaded:
        replaced = _REPLACED if changed and before and before.datoms else None
        manifest = self.choice.chain.manifest.to_json()
        return Loaded(changed, self.options.place, manifest, before, after, replaced, self.warnings)

    @contextlib.contextmanager
    def _told(self, state: str) -> Iterator[None]:
        """Have the error of an answer tell what was tried, and in which state the database is."""
        try:
            yield
        except EvaluationError as error:
            what = f"backup {self.choice.chain.backup.id} was not loaded into {self.options.place}"
            raise RestoreError(f"{what}: {error}; {state}") from error


def _database_of(manifest: Manifest) -> str:
    NreplSource.trees(manifest.source)
    details = manifest.source.details
    if details.get("database") is None:
        raise UsageError("the backup is no export of a known database; name a function that reads it: import_function")
    if details["content"] not in (SNAPSHOT, TX_LOG):
        raise UsageError(f"the backup holds {details['content']} without a schema; only a snapshot can be loaded")
    return str(details["database"])


def _expected(choice: Choice) -> State:
    """Of a snapshot with increments only the last transaction is known."""
    records, position = choice.manifest.source.details.get("records"), choice.manifest.source.position
    if records is None or position is None:
        raise CorruptError("the manifest is not valid: it does not tell how many datoms the snapshot has")
    return State(records, position.start) if len(choice.parts) == 1 else State(None, position.stop)


def _new_transactions(database: str) -> str:
    return f"{database} gives transactions new numbers; entities, attributes and values are kept"


@contextlib.contextmanager
def _verified(directory: JobDirectory, choice: Choice, timeout: float, progress: Progress) -> Iterator[List[Path]]:
    """The texts as files, in their order, proven like those of any restore."""
    scratch_of = directory.scratch if directory.is_writable() else directory.scratch_elsewhere
    with scratch_of() as scratch:
        texts = {path: scratch.path / path for path in choice.parts}
        with corruption_in(f"backup {choice.chain.backup.id} of job {directory.name}"):
            for path in texts:
                choice.load(path, InThread(SparseFileWriter(scratch.create(path), durable=False)), progress)
            NreplSource.check(texts, choice.manifest.source, Tools(timeout=timeout))
        yield list(texts.values())


def _chunks(paths: List[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
