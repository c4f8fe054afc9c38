# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of a segment's elements, out of its index_metadata.pickle. Nothing but plain values is ever made of it.

Chroma 1.x writes a dict, versions 0.4 and 0.5 an object of the class PersistentData with the same fields.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
import resource
from typing import Any, Dict, Iterator, Optional

from ...errors import CorruptError

_PERSISTENT_DATA = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")
# Of memory, for each byte of the file, and beside it: a few bytes of a hostile one can ask for gigabytes.
_FACTOR = 64
_ALLOWANCE = 1 << 30


@dataclasses.dataclass(frozen=True)
class Names:
    """labels are by id; added is how many elements the index ever got, max_seq_id the last operation in it, if told."""

    labels: Dict[str, int]
    added: int
    max_seq_id: Optional[int]


def parse(data: bytes) -> Names:
    """Read the pickle.

    Raises CorruptError for one that is torn or holds anything unexpected.
    """
    try:
        with _bounded_memory(len(data)):
            fields = _Unpickler(io.BytesIO(data)).load()
    except CorruptError:
        raise
    except Exception as error:
        # A broken pickle can raise anything.
        raise CorruptError(f"index_metadata.pickle is not whole: {type(error).__name__}: {error}") from error
    return _names(vars(fields) if isinstance(fields, _PersistentData) else fields)


class _PersistentData:
    """Stands in for Chroma's class, and can do nothing."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _PERSISTENT_DATA:
            raise CorruptError(f"index_metadata.pickle wants {module}.{name}, which has no business there")
        return _PersistentData

    def persistent_load(self, _identity: Any) -> Any:
        raise CorruptError("index_metadata.pickle refers to something outside of it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _names(fields: Any) -> Names:
    if not isinstance(fields, dict):
        raise CorruptError("index_metadata.pickle does not hold what Chroma writes")
    labels, added = fields.get("id_to_label"), fields.get("total_elements_added")
    last, back = fields.get("max_seq_id"), fields.get("label_to_id")
    if not (isinstance(labels, dict) and isinstance(back, dict) and isinstance(added, int)):
        raise CorruptError("index_metadata.pickle does not have the fields that Chroma writes")
    if not all(isinstance(key, str) and _is_number(label) for key, label in labels.items()):
        raise CorruptError("index_metadata.pickle has an id or a label of a wrong type")
    if len(back) != len(labels) or any(back.get(label) != key for key, label in labels.items()):
        raise CorruptError("index_metadata.pickle does not agree with itself on ids and labels")
    return Names(labels, added, last if _is_number(last) else None)


@contextlib.contextmanager
def _bounded_memory(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    wanted = used + size * _FACTOR + _ALLOWANCE
    if limits[1] != resource.RLIM_INFINITY:
        wanted = min(wanted, limits[1])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
