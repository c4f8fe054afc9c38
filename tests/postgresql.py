# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL server of its own, on a unix socket in a temporary directory, which ends with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

PASSWORD = "s3cret/ 'word"
_ORDINARY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


class MissingError(Exception):
    """It is not on this machine; the message says how to get it."""


@dataclass
class Cluster:
    """A running server; its user is postgres."""

    directory: Path

    @property
    def address(self) -> str:
        """The connection string, without a password."""
        return f"host={self.directory} user=postgres dbname=postgres"

    @property
    def with_password(self) -> str:
        """The same with it."""
        return psycopg.conninfo.make_conninfo(self.address, password=PASSWORD)

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of a statement; none for one that changes something, which lasts."""
        with psycopg.connect(self.with_password, autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []


@contextlib.contextmanager
def postgresql() -> Iterator[Cluster]:
    """PostgreSQL of Debian, which does not run as root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        raise MissingError("needs PostgreSQL: apt-get install postgresql")
    rights = _ORDINARY if os.geteuid() == 0 else []
    # The path of a socket is short, and nobody passes the directories of pytest.
    with TemporaryDirectory(prefix="pg-") as name:
        place, data = Path(name), Path(name, "data")
        (place / "password").write_text(PASSWORD)
        if rights:
            for path in (place, place / "password"):
                shutil.chown(path, "nobody", "nogroup")
        place.chmod(0o755)
        initialize = [str(programs[-1].with_name("initdb")), f"--pgdata={data}", "--username=postgres", "--no-sync"]
        initialize += [f"--pwfile={place}/password", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        subprocess.run([*rights, *initialize], cwd=place, stdout=subprocess.DEVNULL, check=True)
        control = [*rights, str(programs[-1].with_name("pg_ctl")), f"--pgdata={data}", "--wait", f"--log={place}/log"]
        options = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"
        subprocess.run([*control, "start", "-o", options], cwd=place, stdout=subprocess.DEVNULL, check=True)
        try:
            yield Cluster(place)
        finally:
            stop = [*control, "stop", "--mode=immediate"]
            subprocess.run(stop, cwd=place, stdout=subprocess.DEVNULL, check=True)
