# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every known type of database: its source and the options of its jobs; and what else can be in a backup."""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from ..errors import CorruptError
from .base import Source
from .chroma.source import ChromaOptions, ChromaSource
from .file.source import FileSource
from .lmdb.source import LmdbOptions, LmdbSource
from .sqlite.source import SqliteOptions, SqliteSource

SOURCES: Dict[str, Tuple[Type[Any], Type[Any]]] = {
    LmdbSource.type: (LmdbSource, LmdbOptions),
    ChromaSource.type: (ChromaSource, ChromaOptions),
    SqliteSource.type: (SqliteSource, SqliteOptions),
}


def source_of(engine: str) -> Type[Source]:
    """The source that understands the backups of this engine.

    Raises CorruptError for an unknown one.
    """
    known: Dict[str, Type[Source]] = {FileSource.type: FileSource}
    known.update((kind, source) for kind, (source, _unused) in SOURCES.items())
    if engine not in known:
        raise CorruptError(
            "the manifest is of the unknown engine {!r}; this version knows {}".format(engine, ", ".join(known))
        )
    return known[engine]
