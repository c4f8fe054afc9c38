# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of code that a server evaluates, and when it counts."""

from __future__ import annotations

import dataclasses
from typing import Dict, List, Optional

from ..errors import EvaluationError, in_one_line
from .message import Message

# Bytes of each of out and err that are kept. They are for people: a server may log to them without an end.
_LONGEST_OUTPUT = 1 << 20
_LONGEST_EXCEPTION = 10_000
_LONGEST_SENTENCE = 500
_LONGEST_STATUS = 60
_MOST_FAULTS = 5

NEED_INPUT = "need-input"
_FAULTS = ("eval-error", "error", "interrupted", NEED_INPUT, "namespace-not-found")
_FAULTS_BEGIN = "unknown-"
_FAULTS_END = ("nrepl.middleware.print/truncated", "nrepl.middleware.print/error")


@dataclasses.dataclass(frozen=True)
class Answer:
    """All that came for a request until it was done.

    value is the first of so many values. faults are the statuses that speak against a success. out and err may be cut
    off: dropped is the number of bytes that are left out of both.
    """

    value: Optional[str]
    values: int
    out: str
    err: str
    ex: Optional[str]
    root_ex: Optional[str]
    faults: List[str]
    dropped: int

    def problem(self) -> Optional[str]:
        """Why this is not a success, as a sentence; None when it is one."""
        if self.faults or self.ex is not None or self.root_ex is not None:
            named = f" ({', '.join(self.faults)})" if self.faults else ""
            said = _end_of(self.err) or _end_of(self.ex or "") or _end_of(self.root_ex or "")
            return f"the evaluation failed{named}: {said or 'the server does not say why'}"
        if not self.values:
            return "the code gave no value; it may be a comment, or was stopped"
        if self.values > 1:
            return f"the code gave {self.values} values; send one form, as in (do ...), so that it fails as a whole"
        return None

    def only_value(self) -> str:
        """The value of a success.

        Raises EvaluationError with what the server said.
        """
        problem = self.problem()
        if problem is not None or self.value is None:
            raise EvaluationError(problem or "the code gave no value")
        return self.value


class Gathering:
    """Makes an answer of messages; keeps a bounded part of what they hold."""

    def __init__(self) -> None:
        self._value: Optional[str] = None
        self._values = 0
        # As bytes: a server may cut a character in two.
        self._output = {"out": bytearray(), "err": bytearray()}
        self._exceptions: Dict[str, bytes] = {}
        self._faults: List[str] = []
        self._dropped = 0

    def add(self, message: Message) -> None:
        """Take what is in the next message.

        Raises ProtocolError when a field is of another type than nREPL says.
        """
        if message.raw("value") is not None:
            self._value = message.text("value") if self._value is None else self._value
            self._values += 1
        for name, output in self._output.items():
            self._take(output, message.raw(name) or b"")
        for name in ("ex", "root-ex"):
            found = message.raw(name)
            if found is not None:
                self._exceptions.setdefault(name, found[:_LONGEST_EXCEPTION])
        for status in message.statuses():
            if _is_fault(status) and len(self._faults) < _MOST_FAULTS and _shortened(status) not in self._faults:
                self._faults.append(_shortened(status))

    def _take(self, output: bytearray, text: bytes) -> None:
        kept = text[: _LONGEST_OUTPUT - len(output)]
        output += kept
        self._dropped += len(text) - len(kept)

    def answer(self) -> Answer:
        """All that was added so far."""
        exceptions = {name: found.decode(errors="replace") for name, found in self._exceptions.items()}
        return Answer(
            value=self._value,
            values=self._values,
            out=self._output["out"].decode(errors="replace"),
            err=self._output["err"].decode(errors="replace"),
            ex=exceptions.get("ex"),
            root_ex=exceptions.get("root-ex"),
            faults=list(self._faults),
            dropped=self._dropped,
        )


def _is_fault(status: str) -> bool:
    return status in _FAULTS or status.startswith(_FAULTS_BEGIN) or status.endswith(_FAULTS_END)


def _shortened(status: str) -> str:
    return in_one_line(status[:_LONGEST_STATUS])


def _end_of(text: str) -> str:
    """As one line, its end when it is long: there is what went wrong, after what was logged."""
    shown = in_one_line(text[-_LONGEST_SENTENCE:])
    return f"...{shown}" if shown and len(text) > _LONGEST_SENTENCE else shown
