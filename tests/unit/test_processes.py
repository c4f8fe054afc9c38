# SPDX-License-Identifier: GPL-3.0-or-later
"""Children that open databases: their answers, their crashes, their silence, their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import (
    BackupError,
    CorruptError,
    SourceError,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import (
    Child,
    Owner,
    Report,
)
from ansible_collections.embedded.db_backup.tests.tools import NOBODY, eventually

MINUTE = 60


def answer_of(function: Callable[[Report], Any], timeout: float = MINUTE, **options: Any) -> Any:
    with Child(function, what="the copy", timeout=timeout, **options) as child:
        for _unused in child.chunks():
            pass
        return child.result()


def is_alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def members_of_group(group: int) -> list[int]:
    """The processes of a process group that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _parent, of_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def raise_error(error: BaseException) -> Any:
    raise error


def test_result_and_output() -> None:
    content = os.urandom(3 << 20)

    def work(report: Report) -> dict[str, Any]:
        with os.fdopen(os.dup(report.output), "wb") as output:
            output.write(content)
        return {"answer": [1, None, "ü"]}

    with Child(work, what="the copy", timeout=MINUTE) as child:
        assert b"".join(bytes(chunk) for chunk in child.chunks()) == content
        assert child.result() == {"answer": [1, None, "ü"]}


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda _report: raise_error(SourceError("no such database")), "no such database"),
        (lambda _report: raise_error(OSError(2, "No such file or directory", "/x")), "No such file or directory"),
        (lambda _report: raise_error(KeyError("x")), "KeyError: 'x'"),
        (lambda _report: raise_error(SystemExit(3)), "SystemExit: 3"),
        (lambda _report: ctypes.string_at(1), "the copy crashed with SIGSEGV"),
        (lambda _report: os.kill(os.getpid(), signal.SIGBUS), "the copy crashed with SIGBUS"),
        (lambda _report: object(), "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_whatever_goes_wrong_is_one_sentence(function: Callable[[Report], Any], sentence: str) -> None:
    with pytest.raises(CorruptError) as caught:
        answer_of(function, failing=CorruptError)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "ending"),
    [
        (lambda _report: os._exit(7), "ended with status 7 and no word"),
        (lambda _report: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda _report: os.kill(os.getpid(), signal.SIGTERM), "was ended by SIGTERM"),
        (lambda _report: time.sleep(MINUTE), "gave no sign of life for 0.5 seconds and was ended"),
    ],
)
def test_an_end_that_says_nothing_of_the_copy_is_no_corruption(function: Callable[[Report], Any], ending: str) -> None:
    with pytest.raises(BackupError) as caught:
        answer_of(function, timeout=0.5, failing=CorruptError)
    assert not isinstance(caught.value, CorruptError)
    assert str(caught.value) == f"the copy {ending}, so its work could not be finished"
    with pytest.raises(SourceError, match=f"^the copy {ending}$"):
        answer_of(function, timeout=0.5)


@pytest.mark.parametrize("function", [lambda _report: os.getpgid(0), lambda _report: os._exit(1)], ids=["good", "bad"])
def test_nothing_of_it_stays(function: Callable[[Report], Any]) -> None:
    with Child(function, what="the copy", timeout=MINUTE) as child:
        process = child._pid
        for _unused in child.chunks():
            pass
        with contextlib.suppress(SourceError):
            assert child.result() == process
    eventually(lambda: members_of_group(process) == [], "its process group is empty")


@pytest.mark.parametrize("closes_output", [True, False])
def test_silence_ends_it(closes_output: bool) -> None:
    def be_silent(report: Report) -> None:
        if closes_output:
            os.close(report.output)
        time.sleep(MINUTE)

    started = time.monotonic()
    with pytest.raises(SourceError, match=r"the copy gave no sign of life for 0\.2 seconds and was ended"):
        answer_of(be_silent, timeout=0.2)
    assert time.monotonic() - started < 10


def test_signs_of_life_keep_it_alive() -> None:
    def work_slowly(report: Report) -> str:
        os.close(report.output)
        for _unused in range(8):
            time.sleep(0.1)
            report.alive()
        report.output = os.open(os.devnull, os.O_WRONLY)
        return "done"

    assert answer_of(work_slowly, timeout=0.5) == "done"


def test_leaving_ends_it_with_all_it_started(tmp_path: Path) -> None:
    def start_another(_report: Report) -> None:
        if os.fork() == 0:
            (tmp_path / "grandchild").write_text(str(os.getpid()))
        time.sleep(MINUTE)

    with Child(start_another, what="the copy", timeout=MINUTE):
        eventually(lambda: (tmp_path / "grandchild").exists() and (tmp_path / "grandchild").read_text(), "it started")
        grandchild = int((tmp_path / "grandchild").read_text())
        assert is_alive(grandchild)
    eventually(lambda: not is_alive(grandchild), "the grandchild is gone")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    def tell_and_wait(_report: Report) -> None:
        (tmp_path / "new").write_text(str(os.getpid()))
        (tmp_path / "new").rename(tmp_path / "child")
        time.sleep(MINUTE)

    parent = os.fork()
    if parent == 0:
        try:
            answer_of(tell_and_wait)
        finally:
            os._exit(1)
    eventually((tmp_path / "child").exists, "the child started")
    child = int((tmp_path / "child").read_text())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    eventually(lambda: not is_alive(child), "the child is gone")


def test_no_descriptor_is_lost_or_handed_on(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)

    def open_descriptors(report: Report) -> list[int]:
        # The number under which the directory is listed is closed again, and fstat fails.
        listed = [int(name) for name in os.listdir("/proc/self/fd")]
        return [number for number in listed if number > 2 and is_open(number, report)]

    def is_open(number: int, report: Report) -> bool:
        return number not in (report.output, report.descriptor) and os.path.lexists(f"/proc/self/fd/{number}")

    try:
        assert answer_of(open_descriptors) == []
        with pytest.raises(SourceError):
            answer_of(lambda _report: os._exit(1))
    finally:
        os.close(secret)
    assert os.listdir("/proc/self/fd") == before


def test_signals_have_their_usual_effect_in_it() -> None:
    def handlers(_report: Report) -> list[bool]:
        return [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)]

    assert answer_of(handlers) == [True, True]


def test_directory(tmp_path: Path) -> None:
    assert answer_of(lambda _report: os.getcwd(), directory=tmp_path) == str(tmp_path)
    with pytest.raises(SourceError, match="No such file or directory"):
        answer_of(lambda _report: os.getcwd(), directory=tmp_path / "missing")


@pytest.mark.root
@pytest.mark.parametrize("uid", [NOBODY, 4711])
def test_takes_the_rights_of_the_owner_of_the_data_for_good(tmp_path: Path, uid: int) -> None:
    private = tmp_path / "private"
    private.mkdir(0o700)
    (private / "data").mkdir()
    os.chown(private / "data", uid, 4712)

    def rights(_report: Report) -> dict[str, Any]:
        with pytest.raises(PermissionError):
            os.setuid(0)
        Path("made").write_text("")
        return {"uid": os.getresuid(), "gid": os.getresgid(), "root": 0 in os.getgroups()}

    owner = Owner.of((private / "data").stat())
    assert answer_of(rights, owner=owner, directory=private / "data") == {
        "uid": [uid] * 3,
        "gid": [4712] * 3,
        "root": False,
    }
    assert (private / "data/made").stat().st_uid == uid


@pytest.mark.root
def test_a_confined_child_sees_its_directory_only(tmp_path: Path) -> None:
    """Also where its owner may not pass the directories above; prepare still has all rights, but the same view."""
    inner = tmp_path / "closed/data"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (inner / "link").symlink_to("/etc/passwd")
    (inner / "secret").write_text("of root")
    (inner / "secret").chmod(0o600)
    inner.chmod(0o755)
    inner.parent.chmod(0o700)
    prepared: list[str] = []

    def work(_report: Report) -> Any:
        with contextlib.suppress(ImportError, ImportWarning):
            import wave  # noqa: F401, PLC0415 - a library that nobody has loaded yet

            return "imported from a foreign root"
        return [os.getuid(), sorted(os.listdir("/")), os.path.exists("link"), prepared, os.access("secret", os.R_OK)]

    told = answer_of(
        work,
        owner=Owner(NOBODY, NOBODY),
        directory=inner,
        confined=True,
        prepare=lambda: prepared.append(Path("/secret").read_text()),
    )
    assert told == [NOBODY, ["file", "link", "secret"], False, ["of root"], False]


@pytest.mark.root
def test_a_child_in_another_root(tmp_path: Path) -> None:
    (tmp_path / "root/inside").mkdir(parents=True)
    told = answer_of(lambda _report: [os.getcwd(), os.listdir("/")], root=tmp_path / "root", directory=Path("/inside"))
    assert told == ["/inside", ["inside"]]
