# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kind of table a store is."""

from __future__ import annotations

from .table import Store, Table


def table_of(store: Store) -> Table:
    """The table of a store.

    Raises UsageError, or BackupError when this host has not what it takes.
    """
    store.check()
    # Loaded when needed, as sources are.
    if store.postgresql is not None:
        from .postgresql import PostgresqlTable  # noqa: PLC0415

        return PostgresqlTable(store, store.postgresql)
    from .sqlite import SqliteTable  # noqa: PLC0415

    return SqliteTable(store, str(store.sqlite))
