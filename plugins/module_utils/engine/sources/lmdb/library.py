# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done with LMDB itself, always in a child process: copy a live environment, read a copy to its end.

py-lmdb where it can be imported, else the programs of lmdb-utils.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar, cast

from ...errors import CorruptError, SourceError
from ...optional import optional_module
from ...paths import anchored
from ...processes import Report
from .format import DESCRIPTION_SIZE, LMDB, LMDB_1, Meta, describes_database, metas_of, read_metas

lmdb = optional_module("lmdb")

T = TypeVar("T")

# More records than this in the main database are data of the application, not the names of databases: looking
# through them all would hold the reader of a live environment for long.
_MOST_NAMED = 10_000
_BATCH = 1_000


# Handles of databases by name, the main one under None; or None where they were too many to look for.
_Handles = Optional[Dict[Optional[str], Any]]


@dataclasses.dataclass(frozen=True)
class Database:
    """A database of an environment and its number of records; name is None for the main one."""

    name: Optional[str]
    entries: int


@dataclasses.dataclass(frozen=True)
class Links:
    """Links to the files of an environment that are open already, made where nobody else can put others in their stead.

    descriptors are of the files: a child must keep them. shown is how messages name the directory.
    """

    directory: Path
    descriptors: Tuple[int, ...]
    shown: Path


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an environment lives, seen from its directory: names of the data and the lock file.

    With links, it is opened by them, not in its own directory.
    """

    data: str
    lock: str
    subdir: bool
    links: Optional[Links] = None

    @property
    def descriptors(self) -> Tuple[int, ...]:
        """What whoever opens it needs."""
        return self.links.descriptors if self.links else ()

    @property
    def shown_data(self) -> Optional[Path]:
        """How messages name the data file, where links lead to it."""
        return self.links.shown / self.data if self.links else None

    @property
    def shown_lock(self) -> Optional[Path]:
        """The same of the lock file."""
        return self.links.shown / self.lock if self.links else None

    def name(self) -> str:
        """What messages of a process in its directory call the data file."""
        return str(self.shown_data or os.path.join(os.getcwd(), self.data))


def copier(data_version: int = LMDB) -> str:
    """Name and version of what copies environments of this version here.

    Raises SourceError when there is neither py-lmdb nor mdb_copy.
    """
    if lmdb:
        version = lmdb.version(lib_version=1) if data_version == LMDB_1 else lmdb.version()
        return "py-lmdb {} (LMDB {})".format(lmdb.__version__, ".".join(map(str, version)))
    if shutil.which("mdb_copy"):
        answer = subprocess.run(["mdb_copy", "-V"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return "mdb_copy ({})".format(answer.stdout.decode(errors="replace").split(":")[0].strip())
    raise SourceError("neither py-lmdb nor mdb_copy is here to copy LMDB with; install python3-lmdb or lmdb-utils")


def copy(report: Report, place: Place, compact: bool) -> Dict[str, Any]:
    """Copy the environment in the working directory to the report's output, out of one read transaction.

    Returns txnid, fingerprint and databases of that transaction as far as they are known for certain.
    """
    # Without a lock file no application runs; opening must not create one. The caller sees to it afterwards that
    # nothing was committed meanwhile.
    locked = os.path.exists(place.lock)
    if lmdb:
        return _copy_with_library(report, place, compact, locked)
    _copy_with_program(report, place, compact, locked)
    return {}


def read_all(report: Report, descriptor: int, name: str) -> List[Dict[str, Any]]:
    """Read every record of every database of an open copy; returns the databases. name is for messages.

    Raises CorruptError. A damaged copy may crash the process instead.
    """
    meta = metas_of(descriptor, Path(name), _versions())[0]
    if lmdb:
        databases = _read_with_library(report, descriptor, meta)
    else:
        databases = list(_read_with_program(report, descriptor, meta))
    return [dataclasses.asdict(database) for database in databases]


def has_version_1() -> bool:
    """Whether what is here can copy and read environments of LMDB 1.0: py-lmdb brings it from 3.0 on."""
    try:
        return bool(lmdb and lmdb.version(lib_version=1))
    except (TypeError, lmdb.Error):
        return False


def _versions() -> Tuple[int, ...]:
    return (LMDB, LMDB_1) if has_version_1() else (LMDB,)


def can_read() -> bool:
    """Whether something on this host can open a copy."""
    return bool(lmdb or shutil.which("mdb_dump"))


def _copy_with_library(report: Report, place: Place, compact: bool, locked: bool) -> Dict[str, Any]:
    try:
        try:
            return _copy_opened(report, place, compact, locked)
        except lmdb.ReadersFullError:
            _free_dead_readers(place)
            return _copy_opened(report, place, compact, locked)
    except lmdb.Error as error:
        raise SourceError(_explain(place, error)) from error


def _copy_opened(report: Report, place: Place, compact: bool, locked: bool) -> Dict[str, Any]:
    data = Path(place.data)
    meta, most_named = _metas(place)[0], _MOST_NAMED if compact else 0
    opened = _opened(report, data, meta, subdir=place.subdir, locked=locked, most_named=most_named)
    with opened as (environment, handles):
        if not compact:
            # The copy takes a transaction of its own, whose number stands in the copy itself.
            environment.copyfd(report.output, False)
            return {}
        with environment.begin(buffers=True) as transaction:
            known = _describe(report, transaction, handles, place)
            try:
                environment.copyfd(report.output, True, transaction)
                return known
            except TypeError:
                # py-lmdb on the system's liblmdb cannot copy out of a given transaction.
                environment.copyfd(report.output, True)
                return {}


def _free_dead_readers(place: Place) -> None:
    """Have mdb_stat free the slots of readers that ended without a word; py-lmdb needs a free one just to open."""
    if shutil.which("mdb_stat"):
        path = ["."] if place.subdir else ["-n", place.data]
        command = ["mdb_stat", "-rr", *path]
        silent: Dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, **silent, check=False, pass_fds=place.descriptors)


def _metas(place: Place) -> List[Meta]:
    return read_metas(Path(place.data), _versions(), place.shown_data)


def _describe(report: Report, transaction: Any, handles: _Handles, place: Place) -> Dict[str, Any]:
    txnid = transaction.id()
    meta = next((meta for meta in _metas(place) if meta.txnid == txnid), None)
    databases = None
    # Named databases may have come and gone since the handles were opened.
    if handles is not None and {_text(name) for name in _names(report, transaction)} == set(handles) - {None}:
        databases = [{"name": name, "entries": transaction.stat(handle)["entries"]} for name, handle in handles.items()]
    return {"txnid": txnid, "fingerprint": meta.fingerprint if meta else None, "databases": databases}


def _explain(place: Place, error: Exception) -> str:
    path = place.name()
    if isinstance(error, lmdb.ReadersFullError):
        if not shutil.which("mdb_stat"):
            return f"the reader table of {path} is full; install lmdb-utils, which can free the slots of dead readers"
        return f"the reader table of {path} is full; close a reader, or let the application allow for more of them"
    if isinstance(error, lmdb.LockError) or "Permission denied" in str(error):
        return f"{path} and its {place.lock} cannot be opened by user {os.geteuid()}: {error}"
    return f"{path} cannot be copied: {error}"


@contextlib.contextmanager
def _opened(
    report: Report, data: Path, meta: Meta, *, subdir: bool, locked: bool, most_named: int
) -> Iterator[Tuple[Any, _Handles]]:
    """The environment read-only, and handles of its databases unless the main one has more records than most_named."""
    arguments = {
        "path": str(data.parent if subdir else data),
        "subdir": subdir,
        "readonly": True,
        "create": False,
        "lock": locked,
        # What may grow while it is open needs the whole map; a copy only what it has.
        "map_size": max(meta.map_size, meta.used_size) if locked else meta.used_size,
    }
    with lmdb.open(**arguments) as environment:
        if locked:
            # A reader that was killed keeps its place in the table, and freed pages from being used again.
            environment.reader_check()
        if meta.main_entries > most_named:
            yield environment, None
            return
        with environment.begin(buffers=True) as transaction:
            names = _names(report, transaction)
    with lmdb.open(max_dbs=max(1, len(names)), **arguments) as environment:
        yield environment, _open_all(report, environment, names)


def _names(report: Report, transaction: Any) -> List[bytes]:
    """Names in the main database whose values describe a database."""
    names = (
        _without_end(bytes(key))
        for key, value in _alive(report, transaction.cursor())
        if len(value) == DESCRIPTION_SIZE and describes_database(bytes(value))
    )
    return [name for name in names if b"\0" not in name]


def _without_end(key: bytes) -> bytes:
    """A name as it was given: LMDB 1.0 stores the zero that ends it. Before, no name could have one."""
    return key[:-1] if key.endswith(b"\0") else key


def _alive(report: Report, items: Iterable[T]) -> Iterator[T]:
    """The items; in between the parent is told that work goes on."""
    for number, item in enumerate(items):
        if number % _BATCH == 0:
            report.alive()
        yield item


def _open_all(report: Report, environment: Any, names: List[bytes]) -> Dict[Optional[str], Any]:
    """Handles by name, the main one under None; records that only look like a description are passed over."""
    handles: Dict[Optional[str], Any] = {None: environment.open_db(None)}
    for name in _alive(report, names):
        try:
            handles[_text(name)] = environment.open_db(name, create=False)
        except (lmdb.IncompatibleError, lmdb.NotFoundError):
            continue
    return handles


def _text(name: bytes) -> str:
    return name.decode("utf-8", errors="backslashreplace")


def _read_with_library(report: Report, descriptor: int, meta: Meta) -> List[Database]:
    try:
        with _opened(report, anchored(descriptor), meta, subdir=False, locked=False, most_named=sys.maxsize) as (
            environment,
            handles,
        ):
            return _read_databases(report, environment, handles or {})
    except lmdb.Error as error:
        raise CorruptError(f"does not open: {error}") from error


def _read_databases(report: Report, environment: Any, handles: Dict[Optional[str], Any]) -> List[Database]:
    with environment.begin() as transaction:
        return [
            Database(name, _count_by_reading(report, transaction, handle))
            for name, handle in _alive(report, handles.items())
        ]


def _count_by_reading(report: Report, transaction: Any, handle: Any) -> int:
    """Copy every key and value into memory, which touches every page; compare with the number LMDB tells."""
    count = 0
    records = iter(transaction.cursor(db=handle))
    while True:
        batch = sum(1 for _unused in itertools.islice(records, _BATCH))
        if not batch:
            break
        count += batch
        report.alive()
    told = transaction.stat(handle)["entries"]
    if count != told:
        raise CorruptError(f"a database has {count} records where its own header tells {told}")
    return count


def _copy_with_program(report: Report, place: Place, compact: bool, locked: bool) -> None:
    with contextlib.ExitStack() as stack:
        data = Path(place.data)
        if not locked:
            # By this name also a user can reach it who may not pass the directories above.
            data = stack.enter_context(_without_lock(Path("/proc/self/cwd") / data))
        source = str(data.parent if place.subdir else data)
        options = ["-c"] * compact + ["-n"] * (not place.subdir)
        with _started(["mdb_copy", *options, source], report.output, place.descriptors) as process:
            message = cast(IO[bytes], process.stderr).read().decode(errors="replace").strip()
    if process.returncode != 0:
        message = message or f"status {process.returncode}"
        raise SourceError(f"{place.name()} cannot be copied: {message}")


def _started(command: List[str], output: int, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """A program that, like this process, sees a broken pipe as an error and closes its environment."""
    return subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, restore_signals=False, pass_fds=descriptors)


@contextlib.contextmanager
def _without_lock(data: Path) -> Iterator[Path]:
    """A link to the data file: the programs always make a lock file, and so make it beside the link."""
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory) / data.name
        link.symlink_to(data)
        yield link


def _read_with_program(report: Report, descriptor: int, meta: Meta) -> Iterator[Database]:
    with _without_lock(anchored(descriptor)) as link:
        main = sum(count for _unused, count in _dump(report, link, descriptor, []))
        if main != meta.main_entries:
            raise CorruptError(f"the main database has {main} records where its header tells {meta.main_entries}")
        yield Database(None, main)
        if main:
            for name, count in _dump(report, link, descriptor, ["-a"]):
                yield Database(name, count)


def _dump(report: Report, data: Path, descriptor: int, options: List[str]) -> Iterator[Tuple[str, int]]:
    """Name and number of records of each database that mdb_dump reads, through the descriptor that it inherits."""
    with _started(["mdb_dump", *options, "-n", str(data)], subprocess.PIPE, [descriptor]) as process:
        output, errors = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr)
        name, lines = "", 0
        for line in output:
            if line.startswith(b" "):
                lines += 1
                if lines % _BATCH == 0:
                    report.alive()
            elif line.startswith(b"database="):
                name = line[len("database=") : -1].decode("utf-8", errors="backslashreplace")
            elif line == b"DATA=END\n":
                report.alive()
                yield name, lines // 2
                name, lines = "", 0
        message = errors.read().decode(errors="replace").strip()
    if process.returncode != 0 and "does not contain multiple databases" not in message:
        raise CorruptError("does not open: %s" % (message or f"mdb_dump ended with status {process.returncode}"))
