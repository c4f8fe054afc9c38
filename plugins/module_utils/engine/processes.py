# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A forked child that runs one function, as the owner of the data, and never outlives its parent or its deadline.

Databases are opened only in such children: a damaged file can crash the process that maps it (SIGBUS), a foreign lock
can hang it, and root must not own the files that opening creates. A fork, not a new interpreter: inside an Ansible
module the package is in an archive that the owner of the data may not read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Type

from .errors import BackupError, CorruptError, SilentError, SourceError, UsageError, naming, sentence
from .stream.stages import CHUNK, write_all

# Seconds of silence.
DEFAULT_TIMEOUT = 60
LONGEST_TIMEOUT = 86400

_F_SETPIPE_SZ = 1031
_PIPE_SIZE = 1 << 20
_EXIT_REPORTED = 3
# What the content can do to the process that reads it; other signals are sent, as by the kernel when memory is short.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_PATIENCE = 2.0
_GRACE = 5.0
_PAUSE = 0.02


class Owner(NamedTuple):
    """Whose rights a child takes; only root can give up its own."""

    uid: int
    gid: int

    @classmethod
    def of(cls, status: os.stat_result) -> Owner:
        """The owner of a file."""
        return cls(status.st_uid, status.st_gid)


# What parses a copy runs as nobody: a hostile one may take over the process that opens it.
NOBODY = Owner(65534, 65534)


@contextlib.contextmanager
def lent_to_nobody(path: Path) -> Iterator[int]:
    """Open a file that this process has just made so that a child can read it as NOBODY; yields the descriptor.

    The child opens it again through /proc/self/fd. Root lends it by its group: who owns it could change it.
    Raises BackupError when it is not the file that was made.
    """
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_nlink) != (os.geteuid(), 1) or status.st_mode & 0o077:
            raise BackupError(f"{path} was replaced while it was made; somebody else is at work in its directory")
        with _readable_by_nobody(descriptor, path):
            yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _readable_by_nobody(descriptor: int, path: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    status = os.fstat(descriptor)
    try:
        with naming(path):
            os.fchown(descriptor, -1, NOBODY.gid)
            os.fchmod(descriptor, 0o640)
        yield
    finally:
        with naming(path):
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            os.fchown(descriptor, -1, status.st_gid)


def check_timeout(seconds: float) -> None:
    """Raise UsageError unless a child may be silent for so long."""
    if not 1 <= seconds <= LONGEST_TIMEOUT:
        raise UsageError(f"timeout {seconds:g} is out of range; give 1 to {LONGEST_TIMEOUT} seconds")


class Report:
    """How the function in the child talks to the parent while it works."""

    def __init__(self, descriptor: int, output: int) -> None:
        self.descriptor = descriptor
        self.output = output

    def alive(self) -> None:
        """Tell the parent that work goes on."""
        self.send({"alive": True})

    def send(self, message: Any) -> None:
        """Write one message, a line of JSON."""
        write_all(self.descriptor, (json.dumps(message) + "\n").encode())


class Child:
    """The child process, as a context manager: leaving it ends the child whatever it does.

    Of the parent's descriptors it keeps those that are named. function gets a Report; what it returns must be JSON.
    Its bytes to report.output are read with chunks, its result with result. A BackupError in the child is raised again
    in the parent, as failing; a crash as well, with what as subject of the sentence. So is any other end, or a silence
    of timeout seconds, unless failing is CorruptError: it says nothing of what was read, and is a plain BackupError.

    Before it calls the function, the child takes root for its "/", enters directory below it, takes that for its "/"
    when confined, calls prepare, and takes the rights of owner. Of this, what only root can do is left out for others,
    except for a change to root.
    """

    def __init__(
        self,
        function: Callable[[Report], Any],
        *,
        what: str,
        timeout: float,
        owner: Optional[Owner] = None,
        root: Optional[Path] = None,
        directory: Optional[Path] = None,
        confined: bool = False,
        prepare: Optional[Callable[[], None]] = None,
        descriptors: Sequence[int] = (),
        failing: Type[BackupError] = SourceError,
    ) -> None:
        self._what = what
        self._timeout = timeout
        self._failing = failing
        self._status: Optional[int] = None
        self._output, output = os.pipe()
        self._reports, reports = os.pipe()
        _enlarge(output)
        # Nobody writes to it: its end tells that this process is gone.
        life, self._life = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            setting = _Setting(owner, root, directory, confined, prepare)
            _run_in_child(function, Report(reports, output), life, descriptors, setting)
        for descriptor in (output, reports, life):
            os.close(descriptor)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        # Without a reader it fails at its next write and closes its database; what does not is killed.
        for descriptor in (self._output, self._reports, self._life):
            os.close(descriptor)
        deadline = time.monotonic() + _PATIENCE
        while self._status is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if ended:
                self._status = status
            elif time.monotonic() > deadline:
                self._kill()
            else:
                time.sleep(_PAUSE)

    def _kill(self) -> None:
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self._pid, signal.SIGKILL)
        self._status = os.waitpid(self._pid, 0)[1]

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._pid

    def chunks(self, deadline: Optional[float] = None) -> Iterator[memoryview]:
        """The bytes the child writes, until it ends its output. A chunk is valid until the next is asked for.

        deadline is a time.monotonic() at which a silent child fails.
        """
        buffer = memoryview(bytearray(CHUNK))
        while True:
            self._wait_for(self._output, deadline)
            size = os.readv(self._output, [buffer])
            if not size:
                return
            yield buffer[:size]

    def result(self) -> Any:
        """What the function returned, once it has.

        Raises the failing error when the child reported one, crashed, or could not finish; see above for CorruptError.
        """
        pending = b""
        answer = None
        while True:
            self._wait_for(self._reports)
            data = os.read(self._reports, CHUNK)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                answer = answer if "alive" in message else message
        self._status = os.waitpid(self._pid, 0)[1]
        if answer is None:
            has_crashed = os.WIFSIGNALED(self._status) and os.WTERMSIG(self._status) in _CRASHES
            ending = _ending(self._status)
            raise self._failing(f"{self._what} {ending}") if has_crashed else self._unfinished(ending)
        if "error" in answer:
            raise self._failing(answer["error"])
        return answer["result"]

    def _wait_for(self, descriptor: int, deadline: Optional[float] = None) -> None:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        left = self._timeout if deadline is None else min(self._timeout, max(0.0, deadline - time.monotonic()))
        if waiting.poll(int(left * 1000)):
            return
        if left < self._timeout:
            raise self._unfinished("could not be finished in the time that the application may stand still")
        ending = f"gave no sign of life for {self._timeout:g} seconds and was ended"
        raise SilentError(f"{self._what} {ending}") if self._failing is SourceError else self._unfinished(ending)

    def _unfinished(self, ending: str) -> BackupError:
        """The error for an end that says nothing of what was read: it must not be remembered as damage."""
        if issubclass(self._failing, CorruptError):
            return BackupError(f"{self._what} {ending}, so its work could not be finished")
        return self._failing(f"{self._what} {ending}")


class _Setting(NamedTuple):
    owner: Optional[Owner]
    root: Optional[Path]
    directory: Optional[Path]
    confined: bool
    prepare: Optional[Callable[[], None]]

    def enter(self) -> None:
        owner = self.owner if os.geteuid() == 0 else None
        # Asked of this host: the libraries that know the answer must not be loaded from another root.
        groups = _groups(owner) if owner else []
        if self.root:
            _change_root(self.root)
        if self.directory:
            # Entered while still root: the owner of the data may be unable to pass the directories above it.
            os.chdir(self.directory)
        if self.confined and os.geteuid() == 0:
            _change_root(Path())
        if self.prepare:
            self.prepare()
        if owner and owner.uid != 0:
            os.setgroups(groups)
            os.setgid(owner.gid)
            os.setuid(owner.uid)


def _run_in_child(
    function: Callable[[Report], Any], report: Report, life: int, descriptors: Sequence[int], setting: _Setting
) -> NoReturn:
    status = 0
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        own = (report.output, report.descriptor, *descriptors)
        _keep_open(life, *own)
        setting.enter()
        _guard(life, own)
        os.close(life)
        result = function(report)
        os.close(report.output)
        report.send({"result": result})
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told and this copy of it must end here
        status = _EXIT_REPORTED
        _report_failure(report, error)
    finally:
        os._exit(status)


def _report_failure(report: Report, error: BaseException) -> None:
    if isinstance(error, OSError):
        message = sentence(error)
    else:
        message = str(error) if isinstance(error, BackupError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        report.send({"error": message})


def _change_root(root: Path) -> None:
    os.chroot(root)
    os.chdir("/")
    # Nothing is imported from a foreign root.
    sys.path[:] = []
    sys.meta_path[:] = []


def _groups(owner: Owner) -> List[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(owner.uid).pw_name, owner.gid)
    except KeyError:
        return []


def _guard(life: int, others: Sequence[int]) -> None:
    """Leave a process behind that ends this one and its children when the parent dies, but not at once.

    A child whose parent is gone fails at its next write and so closes its database, which frees its place in the table
    of readers. Killed, it would keep pages of a live environment from being used again. Only what hangs is killed.
    """
    worker = os.getpid()
    if os.fork() != 0:
        return
    for descriptor in others:
        os.close(descriptor)
    os.read(life, 1)
    deadline = time.monotonic() + _GRACE
    while os.getppid() == worker and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    os.killpg(0, signal.SIGKILL)


def _keep_open(*wanted: int) -> None:
    """Close all but the standard and the wanted descriptors: a lock held by the parent must end with the parent."""
    for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"):
        if int(name) > 2 and int(name) not in wanted:
            os.closerange(int(name), int(name) + 1)


def _enlarge(pipe: int) -> None:
    """A larger pipe saves switches between the two processes; the system's limit may forbid it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_SIZE)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"{'crashed with' if number in _CRASHES else 'was ended by'} {signal.Signals(number).name}"
    return f"ended with status {os.WEXITSTATUS(status)} and no word"
