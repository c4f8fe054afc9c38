# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The errors a user can meet: each is one sentence saying what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator

# Where the system lists the open descriptors of a process; a path through it is for this process only.
DESCRIPTORS = "/proc/self/fd/"


class BackupError(Exception):
    """Anything that stops the work; its text is meant for the user."""

    exit_code = 1


class UsageError(BackupError):
    """A parameter, a job file or the command line is wrong."""

    exit_code = 2


class NotFoundError(BackupError):
    """There is no such job or backup."""

    exit_code = 10


class LockedError(BackupError):
    """Another process works on the same job or destination."""

    exit_code = 11


class SourceError(BackupError):
    """The database cannot be captured: missing, unreadable, of another kind, or not answering."""


class SilentError(SourceError):
    """A process that reads a database gave no sign of life in its time."""


class NoConnectionError(SourceError):
    """No server can be spoken to, so that nothing was evaluated or changed by it."""


class NotEvaluatedError(NoConnectionError):
    """The same for a command that is there to evaluate, whose exit code 1 tells of code that failed."""

    exit_code = 2


class EvaluationError(SourceError):
    """A server was asked to evaluate code, and there is no answer of it that counts."""


class CorruptError(BackupError):
    """Stored bytes are not what the manifest says, or a copy does not hold together."""


class RestoreError(BackupError):
    """A restore was refused, or failed and was rolled back."""


class Interrupted(BackupError):
    """SIGTERM or SIGINT arrived; what was begun has been cleaned up."""

    exit_code = 130


@contextlib.contextmanager
def naming(path: os.PathLike[str]) -> Iterator[None]:
    """Have errors of calls on a descriptor, or on a path that leads through one, tell which file it was about."""
    try:
        yield
    except OSError as error:
        # A relative name is that below a descriptor.
        known = os.fsdecode(error.filename) if error.filename is not None else ""
        if os.path.isabs(known) and not known.startswith(DESCRIPTORS):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def naming_behind(anchor: os.PathLike[str], path: os.PathLike[str]) -> Iterator[None]:
    """Have errors of calls on paths that begin with the anchor tell the path that it stands for."""
    try:
        yield
    except OSError as error:
        known = os.fsdecode(error.filename) if error.filename is not None else ""
        if not known.startswith(os.fspath(anchor)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path) + known[len(os.fspath(anchor)) :]) from error


def sentence(error: OSError) -> str:
    """An error of the system for the user."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def in_one_line(text: str) -> str:
    """A text of others as one line. It can hold names from anywhere, and so anything."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
