# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a copy of an environment whole, with the engine that wrote it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import List

from ...errors import CorruptError, SourceError
from ...processes import NOBODY, Child, lent_to_nobody
from .details import Environment
from .engines import Engines
from .format import KNOWN, metas_of
from .library import Database


def checked(environment: Environment, data: Path, at_hand: Engines, timeout: float) -> Environment:
    """Completed with what was counted in the data file. Raises CorruptError when that is not what it should be."""
    databases = _read(data, environment.path, at_hand, timeout)
    if environment.databases and environment.databases != databases:
        raise CorruptError(
            f"{environment.path} has the databases {_counts(databases)}, "
            f"its source had {_counts(environment.databases)}"
        )
    return dataclasses.replace(environment, databases=databases)


def _read(data: Path, name: str, at_hand: Engines, timeout: float) -> List[Database]:
    with lent_to_nobody(data) as descriptor:
        try:
            # From the file itself: what a manifest says of it may not be true.
            engine = at_hand.for_copy(metas_of(descriptor, Path(name), KNOWN)[0].data_version)
        except SourceError as error:
            raise CorruptError(str(error)) from error
        if engine is None:
            raise CorruptError(f"{name} is of another version of LMDB than its manifest says")
        child = Child(
            lambda report: engine.read_all(report, descriptor, name),
            what="the process that reads it",
            timeout=timeout,
            owner=NOBODY,
            descriptors=[descriptor, *engine.descriptors],
            failing=CorruptError,
        )
        with child:
            try:
                found = child.result()
            except CorruptError as error:
                raise CorruptError(f"{name}: {error}") from error
    return [Database(**entry) for entry in found]


def _counts(databases: List[Database]) -> str:
    return ", ".join("{} ({})".format(database.name or "main", database.entries) for database in databases)
