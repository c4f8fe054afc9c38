# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One message of a server, whose fields may be of any type until they are asked for."""

from __future__ import annotations

from typing import List, Optional

from .bencode import ProtocolError, Value


class Message:
    """A dictionary, of which texts and lists of texts can be asked for; None or no text where there is none."""

    def __init__(self, received: Value) -> None:
        """Raise ProtocolError for anything else than a dictionary."""
        if not isinstance(received, dict):
            raise ProtocolError("a message is not a dictionary")
        self._fields = received

    def value(self, name: str) -> Optional[Value]:
        """What is in a field, as it was received."""
        return self._fields.get(name.encode())

    def text(self, name: str) -> Optional[str]:
        """A text that must be UTF-8.

        Raises ProtocolError.
        """
        found = self.raw(name)
        try:
            return None if found is None else found.decode()
        except UnicodeDecodeError:
            raise ProtocolError(f"the field {name} is not UTF-8") from None

    def statuses(self) -> List[str]:
        """What the server says of the state of the request.

        Raises ProtocolError.
        """
        found = self.value("status")
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(entry, bytes) for entry in found):
            raise ProtocolError("the field status is not a list of texts")
        return [entry.decode(errors="replace") for entry in found]

    def raw(self, name: str) -> Optional[bytes]:
        """A text of any encoding.

        Raises ProtocolError when it is not a text.
        """
        found = self.value(name)
        if found is not None and not isinstance(found, bytes):
            raise ProtocolError(f"the field {name} is not a text")
        return found
