# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill of Chroma: a real server on the restored directory has every vector, byte by byte, and searches find them.

count, get and query of documents look right also when all vectors are lost, so every embedding is asked for by its id
and held against what the files say.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import struct
import urllib.parse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ...decoding import decode
from ...errors import CorruptError
from ...optional import optional_module
from ...processes import NOBODY, Child, Report
from ...repository.manifest import Manifest
from ...stream.stages import write_all
from ..base import Restoration, Tools
from ..sqlite import copies
from . import examination, schema, segments
from .locations import FILE_NAME
from .server import Client, serving

# A Python can be built without it.
sqlite3: Any = optional_module("sqlite3")

_QUERIES = 50
_LEAST_HITS = 0.8
_NEAREST = 3
_FLOATS_PER_CALL = 1 << 19
_MOST_PER_CALL = 1000
_TOLERANCE = 1e-5
_LONGEST_LINE = 64 << 20
_EXPECTED = """
    CREATE TABLE collections (
        id TEXT, name TEXT, tenant TEXT, database TEXT, dimension INTEGER, records INTEGER, vectors INTEGER
    );
    CREATE TABLE vectors (collection TEXT, record TEXT, vector BLOB, PRIMARY KEY (collection, record));
"""


@dataclasses.dataclass(frozen=True)
class _Collection:
    """What the files say of a collection. vectors is the number of records that have one."""

    id: str
    name: str
    tenant: str
    database: str
    dimension: Optional[int]
    records: int
    vectors: int

    @property
    def page(self) -> int:
        """How many vectors to ask for in one call."""
        return max(1, min(_MOST_PER_CALL, _FLOATS_PER_CALL // max(1, self.dimension or 1)))


def drill(manifest: Manifest, restored: Restoration, tools: Tools) -> List[str]:
    """Start a server on the restored directory and ask it for everything; returns what was proven.

    Raises CorruptError when an answer differs from the files, SourceError when no server can be started.
    """
    root = restored.root
    expected = root.parent / "expected.sqlite3"
    # Before a server changes anything.
    directories = {path: root / path for path in restored.trees if segments.is_segment(path)}
    _expect(copies.Copy(root / FILE_NAME), segments.Directories(directories), expected, tools.timeout)
    with serving(root, tools):
        # A server that has just brought a directory of an older version up to date can fail at its first questions.
        pass
    with contextlib.closing(sqlite3.connect(str(expected))) as known, serving(root, tools) as client:
        columns = ", ".join(field.name for field in dataclasses.fields(_Collection))
        statement = f"SELECT {columns} FROM collections"  # noqa: S608 - the names of our own fields
        collections = [_Collection(*row) for row in known.execute(statement)]
        for collection in collections:
            if collection.records > collection.vectors and directories:
                raise CorruptError(f"collection {collection.name!r} has records without an embedding")
            _check(client, collection, known)
    return _proven(manifest, collections)


def _proven(manifest: Manifest, collections: List[_Collection]) -> List[str]:
    vectors = sum(collection.vectors for collection in collections)
    without = sum(collection.records for collection in collections) - vectors
    proven = [
        f"a Chroma server has all {vectors} embeddings of {len(collections)} collections, byte by byte",
        f"at least {_LEAST_HITS:.0%} of sampled searches in each collection find their own record",
    ]
    if without:
        proven.append(f"{without} records have no embedding in backup {manifest.id}, which was made without segments")
    return proven


def _expect(copied: copies.Copy, files: segments.Directories, target: Path, timeout: float) -> None:
    """Write down what the files say, as told by a process that has no rights to anything."""

    def prepare() -> None:
        copied.open()
        files.open()

    child = Child(
        lambda report: _tell(copied, files, report),
        what="the process that reads the copy",
        timeout=timeout,
        owner=NOBODY,
        prepare=prepare,
        failing=CorruptError,
    )
    with child, contextlib.closing(sqlite3.connect(str(target))) as written:
        written.executescript(_EXPECTED)
        for line in _lines(child.chunks()):
            _write_down(line, written)
        child.result()
        written.commit()


def _lines(chunks: Iterator[memoryview]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + bytes(chunk)).split(b"\n")
        yield from lines
        if len(pending) > _LONGEST_LINE:
            raise CorruptError("its vectors are larger than vectors can be")


def _write_down(line: bytes, written: Any) -> None:
    try:
        told = json.loads(line)
        if isinstance(told, dict):
            written.execute(
                "INSERT INTO collections VALUES (?, ?, ?, ?, ?, ?, ?)", dataclasses.astuple(decode(_Collection, told))
            )
        else:
            collection, name, vector = map(str, told)
            written.execute("INSERT INTO vectors VALUES (?, ?, ?)", (collection, name, base64.b64decode(vector)))
    except (ValueError, TypeError, RecursionError, sqlite3.Error) as error:
        raise CorruptError(f"what its files say makes no sense: {error}") from error


def _tell(copied: copies.Copy, files: examination.Files, report: Report) -> None:
    """Tell what the files say, a line of JSON for each vector and each collection. In a child process."""
    with copied.connection(report) as connection:
        queues = schema.queues(connection)
        for collection in schema.collections(connection):
            report.alive()
            known = schema.records(connection, collection)
            records = schema.replay(known, queues.get(collection.id, []), collection.metadata_seq_id, vectors=False)
            vectors = examination.vectors(connection, files, collection)
            names = sorted(records & set(vectors))
            for name in names:
                _send(report, [collection.id, name, base64.b64encode(vectors[name]).decode()])
            place = {field: getattr(collection, field) for field in ("id", "name", "tenant", "database", "dimension")}
            _send(report, {**place, "records": len(records), "vectors": len(names)})


def _send(report: Report, told: Any) -> None:
    write_all(report.output, (json.dumps(told) + "\n").encode())


def _check(client: Client, collection: _Collection, known: Any) -> None:
    called = f"collection {collection.name!r}"
    path = _path_of(client, collection)
    count = client.call(f"{path}/count")
    if count != collection.records:
        raise CorruptError(f"{called} has {count} records in the Chroma server, {collection.records} in its files")
    for batch in _batches(known, collection):
        _compare(called, batch, client.call(f"{path}/get", {"ids": list(batch), "include": ["embeddings"]}))
    # Larger numbers win where the inner product decides, not the record itself.
    if collection.vectors and _space(client, collection) != "ip":
        _search(client, collection, path, known)


def _batches(known: Any, collection: _Collection) -> Iterator[Dict[str, bytes]]:
    rows = known.execute("SELECT record, vector FROM vectors WHERE collection = ? ORDER BY record", (collection.id,))
    while batch := dict(rows.fetchmany(collection.page)):
        yield batch


def _compare(called: str, wanted: Dict[str, bytes], answer: Any) -> None:
    try:
        found = dict(zip(answer["ids"], map(_packed, answer["embeddings"])))
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise CorruptError(f"{called}: the answer of the Chroma server makes no sense: {error!r}") from error
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise CorruptError(f"{called}: the Chroma server has lost {len(missing)} embeddings, as that of {missing[0]!r}")
    for name, vector in wanted.items():
        if found[name] != vector and not _same_direction(found[name], vector):
            raise CorruptError(f"{called}: the Chroma server has another embedding of {name!r} than its files")


def _search(client: Client, collection: _Collection, path: str, known: Any) -> None:
    """A sample that is spread over all records. The index is approximate, so not every search finds its own record."""
    step = max(1, collection.vectors // _QUERIES)
    statement = "SELECT record, vector FROM vectors WHERE collection = ? ORDER BY record LIMIT ? OFFSET ?"
    sample = [
        row
        for number in range(0, collection.vectors, step)
        for row in known.execute(statement, (collection.id, 1, number))
    ][:_QUERIES]
    hits = 0
    for start in range(0, len(sample), collection.page):
        hits += _hits(client, collection, path, known, sample[start : start + collection.page])
    if hits < _LEAST_HITS * len(sample):
        found = f"only {hits} of {len(sample)} searches in the Chroma server find their own record"
        raise CorruptError(f"collection {collection.name!r}: {found}")


def _hits(
    client: Client,
    collection: _Collection,
    path: str,
    known: Any,
    sample: List[Tuple[str, bytes]],
) -> int:
    """How many of the records are found by their vectors, or others that have the same vector."""
    question = {"query_embeddings": [_unpacked(vector) for _unused, vector in sample], "n_results": _NEAREST}
    answer = client.call(f"{path}/query", {**question, "include": ["distances"]})
    hits = 0
    for (name, vector), nearest in zip(sample, answer["ids"]):
        statement = "SELECT vector FROM vectors WHERE collection = ? AND record = ?"
        same = (known.execute(statement, (collection.id, other)).fetchone() == (vector,) for other in nearest)
        hits += name in nearest or any(same)
    return hits


def _space(client: Client, collection: _Collection) -> str:
    """How distances are measured, as the server tells: by the configuration, in old versions by the metadata."""
    name = urllib.parse.quote(collection.name, safe="")
    place = {"tenant": collection.tenant, "database": collection.database}
    path = _collections(client, collection)
    if path == "/collections":
        told = client.call(f"{path}/{name}?{urllib.parse.urlencode(place)}")
    else:
        told = client.call(f"{path}/{name}")
    hnsw = (told.get("configuration_json") or {}).get("hnsw") or {}
    return str(hnsw.get("space") or (told.get("metadata") or {}).get("hnsw:space") or "l2")


def _path_of(client: Client, collection: _Collection) -> str:
    return f"{_collections(client, collection)}/{collection.id}"


def _collections(client: Client, collection: _Collection) -> str:
    """Before 1.0 a collection is named by its id alone."""
    if client.prefix.endswith("/v1"):
        return "/collections"
    tenant, database = (urllib.parse.quote(name, safe="") for name in (collection.tenant, collection.database))
    return f"/tenants/{tenant}/databases/{database}/collections"


def _packed(numbers: List[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def _unpacked(vector: bytes) -> List[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _same_direction(found: bytes, wanted: bytes) -> bool:
    """A server may keep vectors of cosine collections at length one from the moment its index takes them in."""
    if len(found) != len(wanted):
        return False
    one, other = _unpacked(found), _unpacked(wanted)
    length = math.sqrt(sum(number * number for number in other))
    return length > 0 and all(abs(a - b / length) < _TOLERANCE for a, b in zip(one, other))
