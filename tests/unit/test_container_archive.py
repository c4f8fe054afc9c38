# SPDX-License-Identifier: GPL-3.0-or-later
"""Tars from a Docker engine, also from one that is not honest: nothing escapes, nothing but files, and bounded."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers import archive
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.tests.tools import bytes_of


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar, by default a file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content) if content else None)
    return buffer.getvalue()


def chunks(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def test_files_and_directories(place: Path) -> None:
    content = os.urandom(300_000)
    data = tar(
        member(".", type=tarfile.DIRTYPE, mode=0o755),
        member("./chroma.sqlite3", content, mode=0o640, mtime=1_000_000),
        member("./segment", type=tarfile.DIRTYPE, mode=0o500),
        member("./segment/header.bin", b"header"),
    )
    for size in (1, 7000, len(data)):
        target = place / str(size)
        target.mkdir()
        assert archive.unpack(chunks(data, size), target) == []
        assert bytes_of(target) == {"chroma.sqlite3": content, "segment": None, "segment/header.bin": b"header"}
        status = (target / "chroma.sqlite3").stat()
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o640, 1_000_000)


def test_links_and_devices_are_left_out(place: Path) -> None:
    data = tar(
        member("./link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("./pipe", type=tarfile.FIFOTYPE),
        member("./device", type=tarfile.BLKTYPE, devmajor=8),
        member("./file", b"content", mode=0o6755),
    )
    assert archive.unpack(chunks(data), place) == ["./link", "./pipe", "./device"]
    assert bytes_of(place) == {"file": b"content"}
    assert (place / "file").stat().st_mode & 0o7777 == 0o755


def test_a_second_name_brings_the_file_again(place: Path) -> None:
    data = tar(member("./file", b"content"), member("./below/again", type=tarfile.LNKTYPE, linkname="file"))
    assert archive.unpack(chunks(data), place) == []
    assert bytes_of(place) == {"below": None, "below/again": b"content", "file": b"content"}


@pytest.mark.parametrize(
    "members",
    [
        [member("./hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [member("./hard", type=tarfile.LNKTYPE, linkname="../outside")],
        [member("./hard", type=tarfile.LNKTYPE, linkname="./missing")],
        [member("../outside", b"x")],
        [member("./a/../../outside", b"x")],
        [member("/outside", b"x")],
        [member("./link", type=tarfile.SYMTYPE, linkname=".."), member("./link/../outside", b"x")],
        [member("./twice", b"x"), member("./twice", b"y")],
        [member("./file", b"x"), member("./file/below", b"y")],
        [member("/".join(["deep"] * 300), b"x")],
        [member("./owner", b"x", uid=(1 << 32) - 1)],
        [member("./old", b"x", mtime=-5)],
        [member("./late", b"x", mtime=1 << 40)],
    ],
    ids=lambda members: members[-1][0].name[:20],
)
def test_what_no_honest_engine_sends(place: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(SourceError, match=r"the engine sends|cannot be unpacked"):
        archive.unpack(chunks(tar(*members)), place)
    assert [path.name for path in place.parent.iterdir()] == ["inside"]


def test_a_link_is_never_followed(place: Path) -> None:
    """It is left out, so what lies below it in the tar gets a directory of its own."""
    data = tar(member("./link", type=tarfile.SYMTYPE, linkname=str(place.parent)), member("./link/outside", b"x"))
    archive.unpack(chunks(data), place)
    assert bytes_of(place) == {"link": None, "link/outside": b"x"}
    assert not (place.parent / "outside").exists()


@pytest.mark.parametrize("data", [b"", b"not a tar" * 1000, tar(member("./a", b"x" * 9000))[:5000]])
def test_what_is_no_tar(place: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match=r"not a readable tar|not a tar of files"):
        archive.unpack(chunks(data), place)


def test_headers_are_bounded() -> None:
    """A header can tell that it has gigabytes, which the library would read into memory."""
    huge = tarfile.TarInfo("././@PaxHeader")
    huge.type, huge.size = tarfile.XHDTYPE, 4 << 30
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield huge.tobuf()
        while True:
            sent += 1 << 16
            yield b"9" * (1 << 16)

    with pytest.raises(SourceError, match="not a tar of files"):
        archive.read_file(endless(), 10)
    assert sent < 16 << 20


def test_more_than_the_disk_has(place: Path) -> None:
    info = tarfile.TarInfo("./huge")
    info.size = 1 << 60
    with pytest.raises(SourceError, match="there is no room"):
        archive.unpack(iter([info.tobuf()]), place)
    assert list(place.iterdir()) == []


def test_the_deadline(place: Path) -> None:
    data = tar(member("./file", b"x" * 100_000))
    with pytest.raises(SourceError, match="the time it may be paused was too short"):
        archive.unpack(chunks(data), place, time.monotonic() - 1)


def test_one_file() -> None:
    data = tar(member("config.yaml", b"persist_path: /data\n"))
    assert archive.read_file(chunks(data), 1000) == b"persist_path: /data\n"
    assert archive.read_file(chunks(data), 7) == b"persist"
    assert archive.read_file(chunks(tar(member("config.yaml", type=tarfile.SYMTYPE, linkname="/x"))), 1000) is None
