# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Way value: the whole export is one value. Both sides have all of it in memory.

It is never streamed: nREPL before 1.1 splits surrogate pairs then. In base64 no printer can change it either.
"""

from __future__ import annotations

import binascii
from typing import Callable

from ...errors import SourceError
from ...nrepl.client import Client
from .told import Told, parse, unquoted

# Bytes of the message with the value.
LONGEST = 1 << 29

_PIECE = 1 << 20


def take_value(client: Client, form: str, write: Callable[[bytes], int]) -> Told:
    """Hand the text of the value of the form to write.

    Raises SourceError with what the server says went wrong.
    """
    told, _space, encoded = unquoted(client.evaluate(form).only_value()).rpartition(" ")
    try:
        for start in range(0, len(encoded), _PIECE):
            write(binascii.a2b_base64(encoded[start : start + _PIECE]))
    except (ValueError, binascii.Error) as error:
        raise SourceError(f"what the server sends is not base64: {error}") from error
    return parse(told)
