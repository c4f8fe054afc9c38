# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Chroma keeps in chroma.sqlite3: collections, their records, and operations that no segment has taken in yet.

Source: the migrations of Chroma 0.4 to 1.5. Old versions store a seq_id as eight bytes, new ones as a number.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ...errors import CorruptError, SourceError

_TABLES = ("migrations", "collections", "segments", "embeddings", "embeddings_queue", "max_seq_id")
_METADATA = "urn:chroma:segment/metadata/sqlite"
_VECTOR = ("urn:chroma:segment/vector/hnsw-local-persisted", "urn:chroma:segment/vector/hnsw-local-memory")
ADD, UPDATE, UPSERT, DELETE = range(4)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A row of the queue: what was done to a record."""

    seq_id: int
    kind: int
    record: str
    has_vector: bool


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection and its two segments, each with the last operation it has taken in, None where it is not told."""

    id: str
    name: str
    tenant: str
    database: str
    dimension: Optional[int]
    vector_segment: Optional[str]
    vector_seq_id: Optional[int]
    metadata_segment: str
    metadata_seq_id: Optional[int]


def refuse_others(connection: Any, shown: str) -> None:
    """Raise SourceError unless the database is Chroma's."""
    absent = missing(connection)
    if absent:
        raise SourceError(
            f"{shown} is an SQLite database, but not one of Chroma: it has no table {absent}; "
            "sqlite_backup (type sqlite) is for such"
        )


def missing(connection: Any) -> Optional[str]:
    """A table without which it is no database of Chroma, if there is one. A view, which may never end, is no table."""
    tables = _tables(connection)
    return next((name for name in _TABLES if name not in tables), None)


def vector_segments(connection: Any) -> Set[str]:
    """The ids of all segments whose vectors are in directories.

    Raises SourceError for one of an unknown type.
    """
    found = set()
    for identity, kind in connection.execute("SELECT id, type FROM segments WHERE scope = 'VECTOR'"):
        if kind not in _VECTOR:
            raise SourceError(f"Chroma keeps the vectors of segment {identity} in the unknown way {kind!r}")
        found.add(identity)
    return found


def migrations(connection: Any) -> Dict[str, int]:
    """The version of each part of the schema."""
    return dict(connection.execute("SELECT dir, max(version) FROM migrations GROUP BY dir ORDER BY dir"))


def tenants(connection: Any) -> List[str]:
    """The names of all tenants; there are none before 0.4.15."""
    if "tenants" not in _tables(connection):
        return []
    return [row[0] for row in connection.execute("SELECT id FROM tenants ORDER BY id")]


def databases(connection: Any) -> List[Tuple[str, str]]:
    """Tenant and name of all databases."""
    if "databases" not in _tables(connection):
        return []
    return list(connection.execute("SELECT tenant_id, name FROM databases ORDER BY tenant_id, name"))


def collections(connection: Any) -> List[Collection]:
    """All collections, by tenant, database and name.

    Raises CorruptError for one without records of its own.
    """
    last = {
        segment: number(value) for segment, value in connection.execute("SELECT segment_id, seq_id FROM max_seq_id")
    }
    segments: Dict[str, Dict[str, str]] = {}
    for identity, scope, collection in connection.execute("SELECT id, scope, collection FROM segments"):
        if scope in segments.setdefault(collection, {}):
            raise CorruptError(f"collection {collection} has two segments of scope {scope}")
        segments[collection][scope] = identity
    found = []
    for identity, name, dimension, tenant, database in connection.execute(_collections_statement(connection)):
        own = segments.get(identity, {})
        if "METADATA" not in own:
            raise CorruptError(f"collection {name!r} has no segment of type {_METADATA}")
        vectors, records = own.get("VECTOR"), own["METADATA"]
        found.append(
            Collection(
                id=identity,
                name=name,
                tenant=tenant,
                database=database,
                dimension=dimension,
                vector_segment=vectors,
                vector_seq_id=last.get(vectors) if vectors else None,
                metadata_segment=records,
                metadata_seq_id=last.get(records),
            )
        )
    return sorted(found, key=lambda collection: (collection.tenant, collection.database, collection.name))


def records(connection: Any, collection: Collection) -> Set[str]:
    """The ids of the records that the metadata segment has."""
    statement = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
    return {row[0] for row in connection.execute(statement, (collection.metadata_segment,))}


def queues(connection: Any) -> Dict[str, List[Operation]]:
    """The operations that are still in the queue, by collection, in their order."""
    found: Dict[str, List[Operation]] = {}
    statement = "SELECT seq_id, operation, id, vector IS NOT NULL, topic FROM embeddings_queue ORDER BY seq_id"
    for seq_id, kind, record, has_vector, topic in connection.execute(statement):
        operation = Operation(number(seq_id), kind, record, bool(has_vector))
        if kind not in (ADD, UPDATE, UPSERT, DELETE):
            raise CorruptError(f"operation {operation.seq_id} of the queue is of the unknown kind {kind!r}")
        # persistent://TENANT/NAMESPACE/COLLECTION
        found.setdefault(str(topic).rpartition("/")[2], []).append(operation)
    return found


def replay(known: Iterable[str], operations: Iterable[Operation], after: Optional[int], *, vectors: bool) -> Set[str]:
    """What a segment with the known ids has once the later operations are taken in.

    With vectors only those operations count that bring one, or delete.
    """
    ids = set(known)
    for operation in operations:
        if after is not None and operation.seq_id <= after:
            continue
        if operation.kind == DELETE:
            ids.discard(operation.record)
        elif operation.kind != UPDATE and (operation.has_vector or not vectors):
            ids.add(operation.record)
    return ids


def last_seq_id(connection: Any) -> int:
    """The number of the last operation that is known of."""
    values = [row[0] for row in connection.execute("SELECT seq_id FROM max_seq_id")]
    values += [row[0] for row in connection.execute("SELECT max(seq_id) FROM embeddings_queue")]
    return max((number(value) for value in values if value is not None), default=0)


def _tables(connection: Any) -> Set[str]:
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    return {name for name, statement in found if not str(statement).upper().startswith("CREATE VIRTUAL")}


def _collections_statement(connection: Any) -> str:
    if "databases" not in _tables(connection):
        return "SELECT id, name, dimension, 'default_tenant', 'default_database' FROM collections"
    return (
        "SELECT c.id, c.name, c.dimension, d.tenant_id, d.name "
        "FROM collections AS c JOIN databases AS d ON d.id = c.database_id"
    )


def number(value: Any) -> int:
    """A seq_id as it is stored.

    Raises CorruptError for anything else.
    """
    if isinstance(value, bytes):
        return int.from_bytes(value, "big")
    if isinstance(value, int):
        return value
    raise CorruptError(f"a seq_id is {value!r}, neither a number nor bytes")
