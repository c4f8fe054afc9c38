# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the copy of a segment is whole: a process without rights tells the one that copies, which may be root's."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import socket
from typing import Callable, Iterator, Optional

from ...decoding import decode
from ...errors import CorruptError, SourceError, in_one_line
from ...processes import Report
from ...stream.stages import write_all
from ..sqlite.snapshot import Files
from . import segment
from .segments import SegmentCopy, contents

_PAUSE = 0.1
_LONGEST_ANSWER = 1 << 16


@contextlib.contextmanager
def judging(files: Files, timeout: float) -> Iterator[int]:
    """The descriptor at which a Judge of another child finds the process that looks into the segments of the files."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = files.child(
            lambda report: _serve(report, theirs.fileno(), files.reading),
            "the process that reads the segments",
            timeout,
            descriptors=[theirs.fileno()],
        )
        with child:
            theirs.close()
            try:
                yield ours.fileno()
            finally:
                # It ends when nobody can ask any more.
                ours.close()


class Judge:
    """Asks what keeps a copy from being whole, if anything; alive is called while it waits."""

    def __init__(self, descriptor: int, alive: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._alive = alive

    def __call__(self, copied: SegmentCopy) -> Optional[str]:
        """Raises SourceError when there is no answer."""
        try:
            write_all(self._descriptor, (json.dumps(dataclasses.asdict(copied)) + "\n").encode())
            answer = b""
            while not answer.endswith(b"\n"):
                self._alive()
                if select.select([self._descriptor], [], [], _PAUSE)[0]:
                    data = os.read(self._descriptor, _LONGEST_ANSWER)
                    answer += data
                    if not data or len(answer) > _LONGEST_ANSWER:
                        raise SourceError(f"the process that reads segment {copied.id} ended before it was through")
        except ConnectionError as error:
            raise SourceError(f"the process that reads segment {copied.id} is gone") from error
        return in_one_line(answer.decode(errors="replace")) or None


def _serve(_report: Report, descriptor: int, reading: int) -> None:
    with os.fdopen(os.dup(descriptor), "rb") as questions:
        for question in questions:
            write_all(descriptor, f"{_fault(reading, decode(SegmentCopy, json.loads(question)))}\n".encode())


def _fault(reading: int, copied: SegmentCopy) -> str:
    try:
        segment.parse(contents(reading, copied))
    except CorruptError as error:
        return in_one_line(str(error))
    return ""
