# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of an export over nREPL."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import List, Optional

from ...errors import UsageError
from ...nrepl.address import Address
from ...nrepl.client import check_text
from ...processes import check_timeout
from ...repository.manifest import LONGEST_CHAIN
from ...stores.table import Store
from . import quoting
from .presets import PRESETS

SNAPSHOT, DATOMS, ENTITIES, TX_LOG = "snapshot", "datoms", "entities", "tx_log"
CONTENTS = (SNAPSHOT, DATOMS, ENTITIES, TX_LOG)
AUTO, PULL, FILE, VALUE = "auto", "pull", "file", "value"
# The database that tells of each transaction.
LOGGED = "datascript"
WAYS = (AUTO, PULL, FILE, VALUE)


@dataclasses.dataclass(frozen=True)
class NreplOptions:
    """Options of an nrepl job beside those of all jobs: where the server is, what it exports, and how that comes here.

    One of function, expression, and database with connection. directory is where the server writes the file of way
    file. timeout, in seconds, is for the whole export. listener_limit is how many datoms the listener of a tx_log keeps
    at most, full_every how many backups there are from one full one to the next. also_to are tables that get each
    export as a row too.
    """

    host: Optional[str] = None
    port: Optional[int] = None
    socket: Optional[str] = None
    port_file: Optional[str] = None
    tls_keys: Optional[str] = None
    function: Optional[str] = None
    expression: Optional[str] = None
    database: Optional[str] = None
    connection: Optional[str] = None
    content: str = SNAPSHOT
    way: str = AUTO
    directory: Optional[str] = None
    min_records: int = 1
    install_listener: bool = False
    listener_limit: int = 1_000_000
    full_every: int = 24
    timeout: int = 3600
    also_to: List[Store] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        """Raise UsageError for options that make no sense."""
        self.address.check()
        check_timeout(self.timeout)
        for store in self.also_to:
            store.check()
        if self.also_to and self.content == TX_LOG:
            raise UsageError("also_to takes whole exports, and content tx_log makes increments; take content snapshot")
        self._check_subject()
        for name, known in (("content", CONTENTS), ("way", WAYS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not known; give {', '.join(known)}")
        self._check_log()
        if self.content != SNAPSHOT and not self.database:
            raise UsageError(f"content {self.content} is only for a database that is named with database")
        if self.function and self.way == VALUE:
            raise UsageError("a function writes a file, which way value cannot bring here; take pull or file")
        if self.min_records < 0:
            raise UsageError(f"min_records {self.min_records} is negative")
        if self.directory is not None and not Path(self.directory).is_absolute():
            raise UsageError(f"directory {self.directory} is not absolute")

    def _check_log(self) -> None:
        if self.content == TX_LOG and self.database != LOGGED:
            raise UsageError(f"content {TX_LOG} is for database {LOGGED} only")
        if self.install_listener and self.content != TX_LOG:
            raise UsageError(f"install_listener is for content {TX_LOG} only")
        if self.listener_limit < 1:
            raise UsageError(f"listener_limit {self.listener_limit} is not a number of datoms")
        if not 1 <= self.full_every <= LONGEST_CHAIN:
            raise UsageError(f"full_every {self.full_every} is out of range; give 1 to {LONGEST_CHAIN}")

    def _check_subject(self) -> None:
        given = [name for name in ("function", "expression", "database") if getattr(self, name) is not None]
        if len(given) != 1:
            which = f"not {' and '.join(given)} together" if given else "and none of them is given"
            raise UsageError(f"what is exported is told by function, expression or database, {which}")
        if (self.database is None) != (self.connection is None):
            raise UsageError("database and connection belong together: what kind it is, and the var that holds it")
        if self.database is not None and self.database not in PRESETS:
            raise UsageError(f"database {self.database!r} is not known; give {', '.join(PRESETS)}")
        for name in ("function", "connection"):
            value = getattr(self, name)
            if value is not None and not quoting.is_qualified(value):
                raise UsageError(f"{name} {value!r} is not a name with its namespace, such as my.app/{name}")
        if self.expression is not None:
            check_text("expression", self.expression)

    @property
    def address(self) -> Address:
        """Where the server listens."""
        return Address(self.host, self.port, self.socket, self.port_file, self.tls_keys)

    @property
    def expression_sha256(self) -> Optional[str]:
        """What stands for the expression where others read: it may hold secrets."""
        return hashlib.sha256(self.expression.encode()).hexdigest() if self.expression is not None else None

    @property
    def place(self) -> str:
        """What was exported from where, in words that stay the same; a port that is in a file may change."""
        address = self.address
        server = address.port_file if address.port_file is not None else str(address)
        subject = self.function or self.connection or f"expression-{str(self.expression_sha256)[:16]}"
        return f"nrepl://{server}/{subject}"
