# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Way file: the server writes a file where this host can read it."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Callable, Optional

from ...nrepl.client import Client
from ..exchange import exchange, take
from .runtime import Runtime
from .told import Told, parse, unquoted

_ADVICE = "way file needs a directory that is the same one for both, way pull does not"


def take_file(client: Client, runtime: Runtime, directory: Optional[str], write: Callable[[bytes], int]) -> Told:
    """Hand the text of the file that the server writes below directory to write, and remove it.

    Raises SourceError with what the server says went wrong, or when the file is not here.
    """
    with exchange(Path(directory or tempfile.gettempdir())) as place:
        name = f"{secrets.token_hex(16)}.edn"
        told = parse(unquoted(client.evaluate(runtime.in_file(str(place.path / name))).only_value()))
        take(place, name, write, _ADVICE)
    return told
