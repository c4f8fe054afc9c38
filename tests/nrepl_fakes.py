# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that behave as no nREPL server should. Real ones are in other tests: these are for hostile input only."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.bencode import Decoder, encode

SESSION = "4dbb7d6e-3a8c-4d3a-9c2f-0f4a5d6e7f80"


class Conversation:
    """The side of a fake server. All sending ends with an OSError once the client is gone."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._decoder = Decoder(1 << 30)
        self._received: list[dict[bytes, bytes]] = []
        self.heard: list[dict[str, str]] = []

    def hear(self) -> dict[str, str]:
        """The next request."""
        while not self._received:
            if not (data := self._socket.recv(1 << 16)):
                raise ConnectionError
            self._received += self._decoder.feed(data)  # type: ignore[arg-type]
        self.heard.append({key.decode(): value.decode() for key, value in self._received.pop(0).items()})
        return self.heard[-1]

    def first_bytes(self) -> bytes:
        """What comes first, not looked at."""
        return self._socket.recv(1 << 16)

    def all_bytes(self) -> bytes:
        """What comes until the client ends the connection, not looked at."""
        pieces = []
        with contextlib.suppress(ConnectionError):
            while data := self._socket.recv(1 << 16):
                pieces.append(data)
        return b"".join(pieces)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def tell(self, **fields: Any) -> None:
        """An answer to the last request; a field may be told another value, or by None be left out."""
        answer = {"id": self.heard[-1]["id"], "session": SESSION, **fields}
        self.send(encode({key.replace("_", "-"): value for key, value in answer.items() if value is not None}))

    def give_session(self) -> None:
        """Answer to clone as a real server does, and hear what is wanted next."""
        self.hear()
        self.tell(session="none", new_session=SESSION, status=["done"])
        self.hear()

    def hang(self) -> None:
        """Listen and say nothing until the client is gone."""
        while True:
            self.hear()

    def drip(self, data: bytes) -> None:
        """Send a byte each 0.2 seconds."""
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(0.2)

    def flood(self, *answers: bytes) -> None:
        """Send without an end."""
        piece = b"".join(answers)
        piece *= max(1, (1 << 16) // len(piece))
        while True:
            self.send(piece)

    def reset(self) -> None:
        """End the connection with an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


Play = Callable[[Conversation], None]


@contextlib.contextmanager
def fake_server(play: Play) -> Iterator[tuple[int, list[Conversation]]]:
    """A server that plays its part with every client; yields its port, and what it heard."""
    conversations: list[Conversation] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, play, conversations), daemon=True).start()
        try:
            yield listener.getsockname()[1], conversations
        finally:
            # Closing alone does not wake up who waits for a client.
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, play: Play, conversations: list[Conversation]) -> None:
    with contextlib.suppress(OSError):
        while True:
            accepted = listener.accept()[0]
            conversation = Conversation(accepted)
            conversations.append(conversation)
            with accepted, contextlib.suppress(OSError):
                play(conversation)
