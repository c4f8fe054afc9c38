# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database, or other data, that an application with an nREPL server exports as EDN."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple, Type

from ...decoding import DecodingError, decode, encode
from ...errors import DESCRIPTORS, CorruptError, EvaluationError, RestoreError, SourceError, UsageError, in_one_line
from ...nrepl.client import Client
from ...nrepl.deadline import Deadline
from ...processes import NOBODY, Child, lent_to_nobody
from ...repository.manifest import Kind, Manifest, Named, Origin
from ...repository.staging import Staging
from .. import edn, usage
from ..base import Capture, Inspection, Restoration, Source, Tools, Tree
from .basilisp import Basilisp
from .file import take_file
from .jvm import Jvm
from .nbb import Nbb
from .options import FILE, PULL, VALUE, NreplOptions
from .pull import pull
from .runtime import Runtime
from .told import Told, parse_inspected, unquoted
from .value import LONGEST, take_value

EXPORT = "export.edn"
_SHOWN = 200
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


class NreplSource(Source):
    """What a server exports."""

    type = "nrepl"

    def __init__(self, options: NreplOptions) -> None:
        options.check()
        self._options = options

    def inspect(self) -> Inspection:
        with Client(self._options.address, Deadline(self._options.timeout)) as client, self._told_where():
            runtime, details = self._described(client)
            position = parse_inspected(unquoted(client.evaluate(runtime.inspected()).only_value()))
        return Inspection(Origin(self._options.place, 0, position, details=encode(details)), _engine(details))

    def capture(self, staging: Staging) -> Capture:
        deadline = Deadline(self._options.timeout)
        with Client(self._options.address, deadline) as client, self._told_where():
            runtime, details = self._described(client)
            if details.way != VALUE:
                told = self._stored(client, deadline, runtime, staging)
        if details.way == VALUE:
            # Only such a client has to take messages of any length.
            with Client(self._options.address, deadline, LONGEST) as client, self._told_where():
                told = self._stored(client, deadline, runtime, staging)
        details = dataclasses.replace(details, records=told.records)
        record = staging.records[-1]
        if told.sha256 != record.sha256:
            raise SourceError(f"the export {self._options.place} did not arrive as the server made it")
        kind = Kind(details.way, "logical", online=True, copied_by=runtime.version)
        origin = Origin(self._options.place, record.size, told.position, details=encode(details))
        return Capture(origin, _engine(details), kind, [], needs_check=True)

    @staticmethod
    def is_unchanged(now: Origin, then: Origin) -> bool:
        return (
            now.position is not None
            and now.position == then.position
            and now.details.get("content") == then.details.get("content")
        )

    @staticmethod
    def can_check() -> bool:
        return True

    @staticmethod
    def check(files: Dict[str, Path], origin: Origin, timeout: float) -> Origin:
        details = _details(origin)
        if list(files) != [EXPORT]:
            raise CorruptError("the files of the manifest are not those of its source")
        with lent_to_nobody(files[EXPORT]) as descriptor:
            child = Child(
                lambda report: edn.scan(report, Path(f"{DESCRIPTORS}{descriptor}")),
                what="the process that reads it",
                timeout=timeout,
                owner=NOBODY,
                descriptors=[descriptor],
                failing=CorruptError,
            )
            with child:
                counted = edn.Counted(*child.result())
        records = counted.listed if details.database else counted.records
        if details.records is not None and records != details.records:
            raise CorruptError(f"{EXPORT} holds {records} records, and there should be {details.records}")
        if records < details.min_records:
            raise CorruptError(f"{EXPORT} holds {records} records, fewer than min_records, {details.min_records}")
        return dataclasses.replace(origin, details=encode(dataclasses.replace(details, records=records)))

    @staticmethod
    def trees(origin: Origin) -> Dict[str, Tree]:
        _details(origin)
        return {}

    @staticmethod
    def restoration(manifest: Manifest, destination: Optional[Path]) -> Restoration:
        _details(manifest.source)
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
        details = _details(cls.check(files, manifest.source, tools.timeout))
        return [f"read whole as EDN, with {details.records} records"]

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

    def _stored(self, client: Client, deadline: Deadline, runtime: Runtime, staging: Staging) -> Told:
        with staging.scratch() as scratch:
            # The owner and the mode that a restored export is to have.
            descriptor = scratch.create(EXPORT)
            status = os.fstat(descriptor)
            os.close(descriptor)
        with staging.store(EXPORT, status) as stream:
            if runtime.way == PULL:
                return pull(client, deadline, runtime.streamed(), stream.write)
            if runtime.way == FILE:
                return take_file(client, runtime, self._options.directory, stream.write)
            return take_value(client, runtime.as_value(), stream.write)


def runtime_of(options: NreplOptions, versions: Dict[str, str]) -> Runtime:
    """What a server that tells these versions is.

    Raises SourceError for one that is not known.
    """
    for name, runtime in _RUNTIMES.items():
        if name in versions:
            return runtime(options, versions)
    told = in_one_line(", ".join(versions)) or "nothing"
    raise SourceError(f"the server is of a kind that is not known; of its versions it tells {told[:_SHOWN]}")


def _engine(details: Details) -> Named:
    return Named("nrepl", details.versions.get("nrepl", "unknown"))


def _details(origin: Origin) -> Details:
    try:
        return decode(Details, origin.details, "source")
    except DecodingError as error:
        raise CorruptError(f"the manifest is not valid: {error}") from error
