# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every known type of database: its source and the options of its jobs; and what else can be in a backup."""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple, Type

from ..errors import CorruptError, UsageError
from .base import Source

# Each is loaded when it is asked for: else every process of a run has the code of all databases in its memory. By an
# import statement, not by name: Ansible ships to targets what it finds imported.

# The source of a type and the options of its jobs.
_JobType = Tuple[Type[Any], Type[Any]]


def _chroma() -> _JobType:
    from .chroma.source import ChromaOptions, ChromaSource  # noqa: PLC0415 - loaded when needed

    return ChromaSource, ChromaOptions


def _files() -> _JobType:
    from .files.source import FilesOptions, FilesSource  # noqa: PLC0415 - loaded when needed

    return FilesSource, FilesOptions


def _lmdb() -> _JobType:
    from .lmdb.options import LmdbOptions  # noqa: PLC0415 - loaded when needed
    from .lmdb.source import LmdbSource  # noqa: PLC0415 - loaded when needed

    return LmdbSource, LmdbOptions


def _nrepl() -> _JobType:
    from .nrepl.options import NreplOptions  # noqa: PLC0415 - loaded when needed
    from .nrepl.source import NreplSource  # noqa: PLC0415 - loaded when needed

    return NreplSource, NreplOptions


def _sqlite() -> _JobType:
    from .sqlite.source import SqliteOptions, SqliteSource  # noqa: PLC0415 - loaded when needed

    return SqliteSource, SqliteOptions


_JOB_TYPES: Dict[str, Callable[[], _JobType]] = {
    "chroma": _chroma,
    "files": _files,
    "lmdb": _lmdb,
    "nrepl": _nrepl,
    "sqlite": _sqlite,
}
_ADOPTED = "file"


def job_type(kind: Any) -> _JobType:
    """The source of a type of jobs, and the data class of the options that only its jobs have.

    Raises UsageError for an unknown type.
    """
    if not isinstance(kind, str) or kind not in _JOB_TYPES:
        raise UsageError(f"type {kind!r} is not known; this version knows {', '.join(_JOB_TYPES)}")
    return _JOB_TYPES[kind]()


def source_of(engine: str) -> Type[Source]:
    """The source that understands the backups of this engine.

    Raises CorruptError for an unknown one.
    """
    if engine == _ADOPTED:
        from .file.source import FileSource  # noqa: PLC0415 - loaded when needed

        return FileSource
    if engine not in _JOB_TYPES:
        known = ", ".join([*_JOB_TYPES, _ADOPTED])
        raise CorruptError(f"the manifest is of the unknown engine {engine!r}; this version knows {known}")
    return _JOB_TYPES[engine]()[0]
