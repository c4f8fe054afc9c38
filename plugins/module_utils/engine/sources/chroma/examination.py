# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether chroma.sqlite3 and the segments beside it belong together: every record has its vector. In a child only."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, List, Mapping, Optional

from ...errors import CorruptError
from . import schema, segment
from .schema import Collection, Operation

# The files of a segment by its id; None where it has no directory.
Files = Callable[[str], Optional[Mapping[str, memoryview]]]


@dataclasses.dataclass(frozen=True)
class SegmentState:
    """The vector segment of a collection. elements has the deleted ones too; max_seq_id is the last operation in it."""

    id: str
    persisted: bool
    elements: int
    deleted: int
    max_seq_id: Optional[int]


@dataclasses.dataclass(frozen=True)
class CollectionState:
    """A collection in a manifest. queued of its operations are in the queue only."""

    tenant: str
    database: str
    name: str
    id: str
    dimension: Optional[int]
    records: int
    queued: int
    segment: Optional[SegmentState] = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What is in a persist directory. without_vector is the number of records that a copy without segments loses."""

    tenants: List[str]
    databases: List[str]
    collections: List[CollectionState]
    migrations: Dict[str, int]
    last_seq_id: int
    without_vector: int


def examine(connection: Any, files: Optional[Files], alive: Callable[[], None]) -> Found:
    """Look at every collection; with the files of segments, see that every record has its vector.

    Raises CorruptError when not.
    """
    absent = schema.missing(connection)
    if absent:
        raise CorruptError(f"it is no database of Chroma: it has no table {absent}")
    queues = schema.queues(connection)
    states, without_vector = [], 0
    for collection in schema.collections(connection):
        alive()
        operations = queues.get(collection.id, [])
        known = schema.records(connection, collection)
        records = schema.replay(known, operations, collection.metadata_seq_id, vectors=False)
        if files:
            state = _check(collection, operations, records, files)
        else:
            without_vector += len(records - schema.replay([], operations, collection.vector_seq_id, vectors=True))
            state = None
        states.append(_state(collection, len(records), operations, state))
    return Found(
        tenants=schema.tenants(connection),
        databases=[f"{tenant}/{name}" for tenant, name in schema.databases(connection)],
        collections=states,
        migrations=schema.migrations(connection),
        last_seq_id=schema.last_seq_id(connection),
        without_vector=without_vector,
    )


def vectors(connection: Any, files: Files, collection: Collection) -> Dict[str, bytes]:
    """Every vector of a collection by the id of its record, as float32 bytes, those in the queue included."""
    found: Dict[str, bytes] = {}
    content = files(collection.vector_segment) if collection.vector_segment else None
    after = collection.vector_seq_id
    if content is not None:
        parsed = segment.parse(content)
        after = _later(after, parsed.max_seq_id)
        found = {name: segment.vector(content, parsed, name) for name in parsed.labels}
    statement = "SELECT seq_id, operation, id, vector, topic FROM embeddings_queue ORDER BY seq_id"
    for seq_id, kind, name, vector, topic in connection.execute(statement):
        if str(topic).rpartition("/")[2] != collection.id or (after is not None and schema.number(seq_id) <= after):
            continue
        if kind == schema.DELETE:
            found.pop(name, None)
        elif vector is not None and (kind == schema.UPSERT or (name in found) == (kind == schema.UPDATE)):
            found[name] = vector
    return found


def _check(collection: Collection, operations: List[Operation], records: Any, files: Files) -> Optional[SegmentState]:
    called = f"collection {collection.name!r}"
    identity = collection.vector_segment
    if identity is None:
        if records:
            raise CorruptError(f"{called} has {len(records)} records and no segment for their vectors")
        return None
    content = files(identity)
    try:
        parsed = segment.Segment(persisted=False) if content is None else segment.parse(content)
    except CorruptError as error:
        raise CorruptError(f"{called}, segment {identity}: {error}") from error
    if collection.vector_seq_id and not parsed.persisted:
        what = "directory" if content is None else segment.NAMES
        raise CorruptError(f"{called}, segment {identity}: its {what} is missing")
    if parsed.elements and collection.dimension != parsed.dimension:
        raise CorruptError(
            f"{called} is of dimension {collection.dimension}, the vectors of segment {identity} of {parsed.dimension}"
        )
    after = _later(collection.vector_seq_id, parsed.max_seq_id)
    missing = records - schema.replay(parsed.labels, operations, after, vectors=True)
    if missing:
        raise CorruptError(
            f"{called}: {len(missing)} of {len(records)} records have no vector in segment {identity}, "
            f"as {min(missing)!r}"
        )
    return SegmentState(identity, parsed.persisted, parsed.elements, parsed.deleted, after)


def _state(
    collection: Collection, records: int, operations: List[Operation], state: Optional[SegmentState]
) -> CollectionState:
    after = state.max_seq_id if state else collection.vector_seq_id
    queued = sum(1 for operation in operations if after is None or operation.seq_id > after)
    return CollectionState(
        tenant=collection.tenant,
        database=collection.database,
        name=collection.name,
        id=collection.id,
        dimension=collection.dimension,
        records=records,
        queued=queued,
        segment=state,
    )


def _later(one: Optional[int], other: Optional[int]) -> Optional[int]:
    known = [number for number in (one, other) if number is not None]
    return max(known) if known else None
