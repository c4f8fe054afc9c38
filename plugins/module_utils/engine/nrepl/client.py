# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client with a session of its own: https://nrepl.org/nrepl/ops.html"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from typing import Deque, Dict, FrozenSet, Iterator, Optional

from ..errors import EvaluationError, NoConnectionError, SourceError, UsageError, sentence
from ..interrupts import held_back
from .address import Address
from .answer import NEED_INPUT, Answer, Gathering
from .bencode import LONGEST_MESSAGE, Decoder, ProtocolError, Value, encode
from .connection import Connection
from .deadline import Deadline, OutOfTime
from .message import Message

# Seconds beyond the deadline for ending what runs and closing the session.
_FAREWELL = 2.0
_TLS_ALERT = b"\x15\x03"
_STILL_WORKING = "; the server may still be working on it"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a server tells of itself: versions by name, as clojure or nrepl, and the operations it knows."""

    versions: Dict[str, str]
    operations: FrozenSet[str]


class Client:
    """A connection with its own session, as a context manager; all of it has to be over by the deadline.

    Leaving it ends what still runs and closes the session, which takes at most two seconds more. After an error that it
    raised it can only be left. longest_value bounds the bytes of a message, and so of a value.

    Raises NoConnectionError until there is a session, EvaluationError from then on, UsageError for a bad address.
    """

    def __init__(self, address: Address, deadline: Deadline, longest_value: int = LONGEST_MESSAGE) -> None:
        address.check()
        self._address = address
        self._deadline = deadline
        self._decoder = Decoder(longest_value)
        self._received: Deque[Value] = collections.deque()
        self._requests = 0
        self._session: Optional[str] = None
        # The request that the server has not ended yet.
        self._running: Optional[str] = None
        # What was sent is cut off, or what comes cannot be understood.
        self._is_broken = False

    def __enter__(self) -> Client:
        self._address = self._address.located()
        with self._explained("the connection"):
            self._connection = Connection(self._address, self._deadline)
        try:
            with self._explained("the connection"):
                self._session = self._take_session(self._deadline, self._send({"op": "clone"}, self._deadline))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def evaluate(self, code: str, ns: Optional[str] = None) -> Answer:
        """What the server answers to the code, evaluated in this namespace or in that of the session.

        Raises EvaluationError when it waits for input, or does not end as nREPL says. Whether the answer is a success
        is not asked here: see Answer.
        """
        request = {"op": "eval", "code": check_text("code", code)}
        if ns is not None:
            request["ns"] = check_text("ns", ns)
        gathering = Gathering()
        with self._explained("the evaluation"):
            for message in self._ask(request):
                gathering.add(message)
                if NEED_INPUT in message.statuses():
                    raise EvaluationError(f"the evaluation at {self._address} waits for input, and there is none")
        return gathering.answer()

    def describe(self) -> Description:
        """What the server tells of itself; nothing where it does not know how to."""
        versions: Dict[str, str] = {}
        operations: FrozenSet[str] = frozenset()
        with self._explained("the description"):
            for message in self._ask({"op": "describe"}):
                versions = _versions(message.value("versions")) or versions
                operations = _names(message.value("ops")) or operations
        return Description(versions, operations)

    def _ask(self, request: Dict[str, str]) -> Iterator[Message]:
        """The answers to a request in the session, up to the last one."""
        self._running = str(self._requests + 1)
        identity = self._send({**request, "session": str(self._session)}, self._deadline)
        yield from self._answers(identity, self._deadline)
        self._running = None

    def _send(self, request: Dict[str, str], deadline: Deadline) -> str:
        self._requests += 1
        identity = str(self._requests)
        self._is_broken = True
        self._connection.send(encode({**request, "id": identity}), deadline)
        self._is_broken = False
        return identity

    def _answers(self, identity: str, deadline: Deadline) -> Iterator[Message]:
        """What comes for this request. What comes for others, as of threads that still print, does not count."""
        is_done = False
        while not is_done:
            message = self._next_message(deadline)
            if message.text("id") == identity:
                is_done = "done" in message.statuses()
                yield message

    def _next_message(self, deadline: Deadline) -> Message:
        while not self._received:
            data = self._connection.receive(deadline)
            if not data:
                raise EOFError
            if self._session is None and data.startswith(_TLS_ALERT):
                raise ProtocolError("it wants TLS, for which tls_keys is needed")
            self._received.extend(self._decoder.feed(data))
        return Message(self._received.popleft())

    def _take_session(self, deadline: Deadline, identity: str) -> str:
        session: Optional[str] = None
        for message in self._answers(identity, deadline):
            session = message.text("new-session") or session
        if not session:
            raise ProtocolError("it gives no session")
        return session

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what can go wrong below into the error for the user."""
        try:
            yield
        except OutOfTime:
            raise self._error(what, f"the {self._deadline.seconds:g} seconds for it are over") from None
        except EOFError:
            self._is_broken = True
            raise self._error(what, "the server closed the connection") from None
        except ProtocolError as error:
            self._is_broken = True
            raise self._error(what, f"what the server sends is not nREPL: {error}") from error
        except OSError as error:
            self._is_broken = True
            raise self._error(what, error.strerror or sentence(error)) from error

    def _error(self, what: str, problem: str) -> SourceError:
        if self._session is None:
            hint = "" if self._address.port_file is None else "; the file may be left from a server that has ended"
            return NoConnectionError(f"no nREPL server answers at {self._address}: {problem}{hint}")
        return EvaluationError(f"{what} at {self._address} was not finished: {problem}{_STILL_WORKING}")

    def _leave(self) -> None:
        """Leave no session behind; they live until they are closed, whatever becomes of the connection."""
        with held_back():
            try:
                with contextlib.suppress(OSError, OutOfTime, EOFError, ProtocolError):
                    self._say_farewell(Deadline(_FAREWELL))
            finally:
                self._connection.close()

    def _say_farewell(self, deadline: Deadline) -> None:
        if self._is_broken:
            if self._session is None:
                return
            # Sessions can be closed from any connection, and another word on this one could be taken for code.
            self._connection.close()
            self._connection = Connection(self._address, deadline)
            self._decoder = Decoder()
            self._received.clear()
        if self._session is None:
            # It was asked for first of all, and may be there without our knowing.
            self._session = self._take_session(deadline, "1")
        if self._running is not None:
            self._send({"op": "interrupt", "session": self._session, "interrupt-id": self._running}, deadline)
        identity = self._send({"op": "close", "session": self._session}, deadline)
        for _answer in self._answers(identity, deadline):
            pass


def check_text(name: str, text: str) -> str:
    """Return the text when it can be sent; arguments of a command may hold bytes of any encoding.

    Raises UsageError.
    """
    if not text.strip():
        raise UsageError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not a text in UTF-8") from None
    return text


def _names(told: Optional[Value]) -> FrozenSet[str]:
    return frozenset(name.decode(errors="replace") for name in (told if isinstance(told, dict) else {}))


def _versions(told: Optional[Value]) -> Dict[str, str]:
    """As nREPL gives them, {"clojure": {"version-string": "1.11.1", "major": ...}}, as far as they are of that form."""
    known = {}
    for name, version in told.items() if isinstance(told, dict) else ():
        parts = version if isinstance(version, dict) else {}
        text = parts.get(b"version-string")
        if isinstance(text, bytes):
            known[name.decode(errors="replace")] = text.decode(errors="replace")
    return known
