# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a container is up, and the server in it answers."""

from __future__ import annotations

from typing import List, Optional, Sequence

from ..errors import BackupError
from . import heartbeat
from .container import Address, Container
from .daemon import Daemon


def obstacle(address: Address, paths: Sequence[str]) -> Optional[str]:
    """What is not as it should be now; None when all is well, as far as it can be seen from here."""
    try:
        with Daemon(address.docker_host) as daemon:
            found = daemon.find(address.name)
            if not found.is_running:
                return f"container {found.name} is {found.status}"
            if paths and daemon.is_local and found.addresses and not answering(found, paths):
                return f"container {found.name} gives no heartbeat"
    except BackupError as error:
        return str(error)
    return None


def answering(container: Container, paths: Sequence[str]) -> Optional[heartbeat.Endpoint]:
    """Where the server in it answers, if it does."""
    return heartbeat.first_that_answers(endpoints(container, paths))


def endpoints(container: Container, paths: Sequence[str]) -> List[heartbeat.Endpoint]:
    """Where it could answer."""
    return heartbeat.endpoints([f"http://{address}" for address in container.addresses], paths)
