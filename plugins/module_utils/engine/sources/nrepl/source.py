# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database, or other data, that an application with an nREPL server exports as EDN."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Type, TypeVar

from ...decoding import DecodingError, decode, encode
from ...errors import DESCRIPTORS, CorruptError, EvaluationError, RestoreError, SourceError, UsageError, in_one_line
from ...nrepl.client import Client
from ...nrepl.deadline import Deadline
from ...processes import NOBODY, Child, Report, lent_to_nobody
from ...repository.manifest import FULL, INCREMENT, Kind, Manifest, Named, Origin, Position
from ...repository.staging import Staging
from .. import edn, usage
from ..base import Capture, Inspection, Moment, Restoration, Source, Tools, Tree
from . import transactions
from .basilisp import Basilisp
from .file import take_file
from .jvm import Jvm
from .log import INSTALLED, TransactionLog
from .nbb import Nbb
from .options import AUTO, FILE, PULL, TX_LOG, VALUE, NreplOptions
from .pull import pull
from .runtime import Runtime
from .told import Told, parse_inspected, unquoted
from .value import LONGEST, take_value

EXPORT = "export.edn"
_SHOWN = 200
# Seconds for a look at whether the server answers.
_LOOK = 5.0
# What a manifest keeps of the versions that a server tells; it may tell anything.
_VERSIONS = ("nrepl", "clojure", "java", "nbb-nrepl", "node", "basilisp", "python")
_LONGEST_VERSION = 60

# What of the versions that a server tells names the kind of it.
_RUNTIMES: Dict[str, Type[Runtime]] = {"java": Jvm, "nbb-nrepl": Nbb, "basilisp": Basilisp}


@dataclasses.dataclass(frozen=True)
class Details:
    """What a manifest tells of an export beside the fields of all sources; of an expression only its SHA-256.

    versions are those of the server. records is how many datoms, entities or collections side by side there are, and
    min_records how many there had to be.
    """

    way: str
    content: str
    versions: Dict[str, str]
    min_records: int
    function: Optional[str] = None
    expression_sha256: Optional[str] = None
    database: Optional[str] = None
    connection: Optional[str] = None
    records: Optional[int] = None


class _Plan(NamedTuple):
    """What is to be exported: the name of the file, and of a log what tells it from others."""

    path: str
    type: str
    fingerprint: Optional[str]
    warnings: List[str]


class NreplSource(Source):
    """What a server exports."""

    type = "nrepl"

    def __init__(self, options: NreplOptions) -> None:
        options.check()
        self._options = options
        self.uses_network = options.socket is None or any(store.postgresql for store in options.also_to)
        self.places = _places(options)
        # Full ones and increments of a log of transactions; anything else is exported as a whole.
        self.longest_chain = options.full_every if options.content == TX_LOG else 1

    def obstacle(self) -> Optional[str]:
        try:
            with Client(self._options.address, Deadline(_LOOK)):
                return None
        except SourceError as error:
            return str(error)

    def inspect(self) -> Inspection:
        with Client(self._options.address, Deadline(self._options.timeout)) as client, self._told_where():
            runtime, details = self._described(client)
            if details.content == TX_LOG:
                position = TransactionLog(runtime).inspect(client)
            else:
                position = parse_inspected(unquoted(client.evaluate(runtime.inspected()).only_value()))
        return Inspection(Origin(self._options.place, 0, position, details=encode(details)), _engine(details))

    def capture(self, staging: Staging) -> Capture:
        return self._captured(staging, None)

    def capture_after(self, staging: Staging, prior: Manifest) -> Capture:
        return self._captured(staging, prior.source.position)

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        before = then.position
        if before and then.details.get("content") == TX_LOG:
            # That of an increment begins with the one before.
            before = dataclasses.replace(before, start=before.stop)
        return (
            now.position is not None
            and now.position == before
            and now.details.get("content") == then.details.get("content")
        )

    @staticmethod
    def can_check(origin: Origin, tools: Tools) -> bool:  # noqa: ARG004 - for those that need to know
        return True

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, tools: Tools) -> Origin:
        details, logs = _details(origin), sorted(path for path in files if transactions.is_name(path))
        if set(files) - set(logs) - {EXPORT} or (logs and details.content != TX_LOG) or not files:
            raise CorruptError("the files of the manifest are not those of its source")
        records = 0
        if EXPORT in files:
            counted = edn.Counted(*_read(files[EXPORT], edn.scan, tools.timeout))
            records = counted.listed if details.database else counted.records
            if records < details.min_records:
                raise CorruptError(f"{EXPORT} holds {records} records, fewer than min_records, {details.min_records}")
        if logs:
            records = _check_logs([files[path] for path in logs], origin, tools.timeout)
        # With others that it builds on, they are those of the last one.
        if len(files) == 1 and details.records is not None and records != details.records:
            (path,) = files
            raise CorruptError(f"{path} holds {records} records, and there should be {details.records}")
        return dataclasses.replace(origin, details=encode(dataclasses.replace(details, records=records)))

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        _details(origin)
        return {}

    @staticmethod
    def moment_of(line: bytes) -> Moment:
        return transactions.moment_of(line)

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        details = _details(manifest.source)
        if details.content == TX_LOG:
            return _restoration_of_log(manifest, destination)
        if [record.path for record in manifest.files] != [EXPORT]:
            raise CorruptError("the files of the manifest are not those of its source")
        if not destination:
            raise RestoreError("an export came from a server, not from a path; tell the file to restore to with dest")
        if destination.is_dir():
            raise UsageError(f"dest {destination} is a directory; give the path of the file")
        return Restoration(destination.parent, {EXPORT: destination.name}, [], [], {})

    @staticmethod
    def refuse_in_use(restoration: Restoration) -> List[str]:
        return usage.refuse_open([restoration.root / name for name in restoration.files.values()])

    @classmethod
    def drill(cls, manifest: Manifest, restored: Restoration, tools: Tools) -> List[str]:
        files = {path: restored.root / name for path, name in restored.files.items()}
        details = _details(cls.check(files, manifest.source, tools))
        if len(files) > 1:
            return [f"read whole as EDN, a snapshot and {len(files) - 1} files of transactions that continue it"]
        return [f"read whole as EDN, with {details.records} records"]

    def _captured(self, staging: Staging, prior: Optional[Position]) -> Capture:
        """An increment to a backup of this position, or a full one."""
        deadline = Deadline(self._options.timeout)
        with Client(self._options.address, deadline) as client, self._told_where():
            runtime, details = self._described(client)
            plan = self._planned(client, runtime, staging, prior)
            if details.way != VALUE:
                told = self._stored(client, deadline, runtime, staging, plan.path)
        if details.way == VALUE:
            # Only such a client has to take messages of any length.
            with Client(self._options.address, deadline, LONGEST) as client, self._told_where():
                told = self._stored(client, deadline, runtime, staging, plan.path)
        details = dataclasses.replace(details, records=told.records)
        record, position = staging.records[-1], told.position
        if told.sha256 != record.sha256:
            raise SourceError(f"the export {self._options.place} did not arrive as the server made it")
        if position and plan.fingerprint:
            position = dataclasses.replace(position, fingerprint=plan.fingerprint)
        kind = Kind(details.way, "logical", online=True, copied_by=runtime.version, type=plan.type)
        origin = Origin(self._options.place, record.size, position, details=encode(details))
        return Capture(origin, _engine(details), kind, plan.warnings, needs_check=True)

    def _planned(self, client: Client, runtime: Runtime, staging: Staging, prior: Optional[Position]) -> _Plan:
        if self._options.content != TX_LOG:
            return _Plan(EXPORT, FULL, None, [])
        log = TransactionLog(runtime)
        prepared = log.prepare(client, _consumer(staging), prior)
        warnings = []
        if prepared.how == INSTALLED:
            warnings.append(
                f"a listener was installed in the application, which keeps what {self._options.place} commits"
            )
        gap = prepared.gap(prior)
        if prior and not gap:
            runtime.printing = log.since(prior.stop, prepared.fingerprint)
            return _Plan(transactions.name_of(staging.id), INCREMENT, prepared.fingerprint, warnings)
        if gap:
            warnings.append(f"this backup is a full one, as the last one cannot be continued: {gap}")
        runtime.printing = log.full(prepared.fingerprint)
        return _Plan(EXPORT, FULL, prepared.fingerprint, warnings)

    @contextlib.contextmanager
    def _told_where(self) -> Iterator[None]:
        """Have the error of an answer tell what was exported."""
        try:
            yield
        except EvaluationError as error:
            raise EvaluationError(f"{self._options.place} was not exported: {error}") from error

    def _described(self, client: Client) -> Tuple[Runtime, Details]:
        """Raises SourceError for a kind of server that is not known, UsageError for what this kind cannot do."""
        options, versions = self._options, client.describe().versions
        runtime = runtime_of(options, versions)
        details = Details(
            way=runtime.way,
            content=options.content,
            versions={name: in_one_line(versions[name][:_LONGEST_VERSION]) for name in _VERSIONS if name in versions},
            min_records=options.min_records,
            function=options.function,
            expression_sha256=options.expression_sha256,
            database=options.database,
            connection=options.connection,
        )
        return runtime, details

    def _stored(self, client: Client, deadline: Deadline, runtime: Runtime, staging: Staging, path: str) -> Told:
        with staging.scratch() as scratch:
            # The owner and the mode that a restored export is to have.
            descriptor = scratch.create(EXPORT)
            status = os.fstat(descriptor)
            os.close(descriptor)
        with staging.store(path, status) as stream:
            if runtime.way == PULL:
                return pull(client, deadline, runtime.streamed(), stream.write)
            if runtime.way == FILE:
                return take_file(client, runtime, self._options.directory, stream.write)
            return take_value(client, runtime.as_value(), stream.write)


def _places(options: NreplOptions) -> List[Path]:
    """Where a run makes files on this host, or has to see what the server makes."""
    places = [Path(store.sqlite).parent for store in options.also_to if store.sqlite]
    if options.socket is not None:
        places.append(Path(options.socket).parent)
    if options.way == FILE or (options.way == AUTO and options.function):
        places.append(Path(options.directory or tempfile.gettempdir()))
    return places


def runtime_of(options: NreplOptions, versions: Dict[str, str]) -> Runtime:
    """What a server that tells these versions is.

    Raises SourceError for one that is not known.
    """
    for name, runtime in _RUNTIMES.items():
        if name in versions:
            return runtime(options, versions)
    told = in_one_line(", ".join(versions)) or "nothing"
    raise SourceError(f"the server is of a kind that is not known; of its versions it tells {told[:_SHOWN]}")


def _consumer(staging: Staging) -> str:
    """What tells this job, of this host and repository, from others that have the same log."""
    return hashlib.sha256(f"{socket.gethostname()} {staging.path.parent}".encode()).hexdigest()[:16]


_T = TypeVar("_T")


def _read(path: Path, read: Callable[[Report, Path], _T], timeout: float) -> _T:
    """What a process without rights gets out of a file."""
    with lent_to_nobody(path) as descriptor:
        child = Child(
            lambda report: read(report, Path(f"{DESCRIPTORS}{descriptor}")),
            what="the process that reads it",
            timeout=timeout,
            owner=NOBODY,
            descriptors=[descriptor],
            failing=CorruptError,
        )
        with child:
            result: _T = child.result()
        return result


def _check_logs(paths: List[Path], origin: Origin, timeout: float) -> int:
    """Returns how many transactions the last one has."""
    if not origin.position:
        raise CorruptError("the manifest is not valid: source.position: is missing, of transactions")
    last = origin.position.start
    for path in paths:
        read = functools.partial(transactions.check, start=last)
        counted = transactions.Counted(*_read(path, read, timeout))
        last = counted.last
    if last != origin.position.stop:
        raise CorruptError(f"its transactions end with {last}, and should with {origin.position.stop}")
    return counted.transactions


def _restoration_of_log(manifest: Manifest, destination: Optional[Path]) -> Restoration:
    """Into a directory, where no transactions may stay that come after those that are restored."""
    paths = [record.path for record in manifest.files]
    if paths[:1] != [EXPORT] or not all(map(transactions.is_name, paths[1:])):
        raise CorruptError("the files of the manifest are not those of its source")
    if not destination:
        raise RestoreError("an export came from a server, not from a path; tell the directory to restore to with dest")
    if os.path.lexists(destination) and not destination.is_dir():
        raise UsageError(f"dest {destination} is not a directory; transactions are restored into one")
    there = sorted(os.listdir(destination)) if destination.is_dir() else []
    others = [name for name in there if transactions.is_name(name) and name not in paths]
    return Restoration(destination, {path: path for path in paths}, [], [], {}, displaced=others)


def _engine(details: Details) -> Named:
    return Named("nrepl", details.versions.get("nrepl", "unknown"))


def _details(origin: Origin) -> Details:
    try:
        return decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
