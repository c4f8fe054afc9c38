# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a server answers over HTTP."""

from __future__ import annotations

import contextlib
import importlib
import time
import urllib.parse
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from ..errors import UsageError

_TIMEOUT = 5.0
_PAUSE = 0.2
_OK = 200


class Endpoint(NamedTuple):
    """Where to ask; the path has the one of the URL before it."""

    is_secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """Of an http or https URL.

        Raises UsageError, without the URL, which may have secrets.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError:
            raise UsageError("heartbeat is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UsageError("heartbeat is not a URL such as http://127.0.0.1:8000, without user, password or query")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"))

    def __str__(self) -> str:
        return "{}://{}:{}{}".format("https" if self.is_secure else "http", self.host, self.port, self.path)


def endpoints(servers: Sequence[str], paths: Sequence[str]) -> List[Endpoint]:
    """Every path of every server; a URL that has a path itself is asked just that."""
    bases = [Endpoint.of(server) for server in servers]
    wanted = (base if base.path else base._replace(path=path) for base in bases for path in paths or ("/",))
    return list(dict.fromkeys(wanted))


def first_that_answers(wanted: Sequence[Endpoint]) -> Optional[Endpoint]:
    """The first one that answers with status 200."""
    return next((endpoint for endpoint in wanted if _status(endpoint) == _OK), None)


def wait_for(wanted: Sequence[Endpoint], seconds: float, go_on: Callable[[], bool]) -> Optional[Endpoint]:
    """The one that answers in time, if any. Gives up early when go_on tells that there is nothing to wait for."""
    deadline = time.monotonic() + seconds
    while True:
        found = first_that_answers(wanted)
        if found or time.monotonic() > deadline or not go_on():
            return found
        time.sleep(_PAUSE)


def _status(address: Endpoint) -> int:
    # Loaded here, as most runs ask nobody and it is large.
    client: Any = importlib.import_module("http.client")
    kind = client.HTTPSConnection if address.is_secure else client.HTTPConnection
    with contextlib.closing(kind(address.host, address.port, timeout=_TIMEOUT)) as connection:
        try:
            connection.request("GET", address.path or "/")
            status: int = connection.getresponse().status
            return status
        except (OSError, client.HTTPException, ValueError):
            return 0
