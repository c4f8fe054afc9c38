# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of LMDB, read without LMDB: what an environment is, and what it is not."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb.format import (
    foreign_lock,
    lock_library,
    lock_version,
    parse_metas,
    read_metas,
)
from ansible_collections.embedded.db_backup.tests.tools import make_environment
from hypothesis import given
from hypothesis import strategies as st

MAGIC = struct.pack("<I", 0xBEEFC0DE)
PAGE = 4096


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data file of an environment."""
    make_environment(tmp_path / "environment", map_size=32 << 20)
    return tmp_path / "environment/data.mdb"


def test_metas_tell_what_lmdb_tells(data: Path) -> None:
    current, previous = read_metas(data)
    with closing(lmdb.open(str(data.parent), readonly=True, map_size=0)) as environment:
        info, stat = environment.info(), environment.stat()
    assert (current.txnid, current.last_page) == (info["last_txnid"], info["last_pgno"])
    assert (current.map_size, current.page_size) == (info["map_size"], stat["psize"])
    assert current.main_entries == stat["entries"] == 2
    assert current.used_size <= data.stat().st_size
    assert previous.txnid == current.txnid - 1
    assert previous.fingerprint != current.fingerprint


def test_fingerprint_changes_with_every_commit(data: Path) -> None:
    seen = set()
    for number in range(5):
        with (
            closing(lmdb.open(str(data.parent), max_dbs=4)) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(b"%d" % number, b"")
        seen.add(read_metas(data)[0].fingerprint)
    assert len(seen) == 5
    assert read_metas(data)[0].fingerprint in seen


def test_page_size_of_another_machine(data: Path) -> None:
    content = bytearray(data.read_bytes())
    for page in (0, PAGE):
        struct.pack_into("<I", content, page + 40, 16384)
    second = bytes(content[PAGE : PAGE + 200])
    content[PAGE : PAGE + 200] = bytes(200)
    metas = parse_metas(bytes(content[:PAGE]).ljust(16384, b"\0") + second)
    assert [meta.page_size for meta in metas] == [16384, 16384]


def change(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda _content: b"", "is empty, not an LMDB environment"),
        (lambda content: content[: len(content) // 2], "is truncated: it has"),
        (lambda content: content[:-PAGE], "is truncated"),
        (lambda _content: b"SQLite format 3\0" + bytes(5000), "is an SQLite database, not an LMDB environment"),
        (lambda _content: os.urandom(16) + bytes(5000), "does not have the magic 0xBEEFC0DE"),
        (lambda _content: b"x", "does not have the magic"),
        (change(16, bytes(4)), "does not have the magic"),
        (change(20, struct.pack("<I", 2)), "was written by DLMDB (Datalevin, data version 2)"),
        (change(20, struct.pack("<I", 999)), "has the unknown LMDB data version 999"),
        (lambda _content: bytes(24) + MAGIC + struct.pack("<I", 3) + bytes(5000), "was written by LMDB 1.0"),
        (lambda _content: bytes(12) + MAGIC + bytes(5000), "on a 32-bit machine"),
        (lambda _content: bytes(16) + MAGIC[::-1] + bytes(5000), "on a big-endian machine"),
        (change(40, struct.pack("<I", 4095)), "makes no sense: it is damaged"),
        (lambda content: content[:100], "makes no sense: it is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_backed_up_is_named(data: Path, damage: Callable[[bytes], bytes], sentence: str) -> None:
    data.write_bytes(damage(data.read_bytes()))
    with pytest.raises(SourceError) as caught:
        read_metas(data)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{data} ")


def test_one_torn_meta_page_does_not_hide_the_other(data: Path) -> None:
    content = data.read_bytes()
    current = read_metas(data)[0]
    data.write_bytes(content[:PAGE] + bytes(PAGE) + content[2 * PAGE :])
    (left,) = read_metas(data)
    assert left.txnid in (current.txnid, current.txnid - 1)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "data.mdb")
    with pytest.raises(SourceError, match="is not a regular file"):
        read_metas(tmp_path / "data.mdb")


def test_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").symlink_to(data)
    with pytest.raises(SourceError, match="it is a link"):
        read_metas(tmp_path / "data.mdb")


@given(st.binary(max_size=300), st.integers(0, 300), st.binary(max_size=40))
def test_no_bytes_crash_it(content: bytes, place: int, inserted: bytes) -> None:
    # Near enough to a meta page that all of it is looked at.
    head = bytes(16) + MAGIC + struct.pack("<I", 1) + content
    parse_metas(head[:place] + inserted + head[place:])


class TestLock:
    def test_of_a_used_environment(self, data: Path) -> None:
        assert lock_version(data.with_name("lock.mdb")) == 1

    @pytest.mark.parametrize("content", [b"", b"1234567"])
    def test_that_is_not_there_yet(self, tmp_path: Path, content: bytes) -> None:
        assert lock_version(tmp_path / "lock.mdb") is None
        (tmp_path / "lock.mdb").write_bytes(content)
        assert lock_version(tmp_path / "lock.mdb") is None

    def test_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "lock.mdb").write_bytes(b"12345678")
        with pytest.raises(SourceError, match="is not the lock file of an LMDB environment"):
            lock_version(tmp_path / "lock.mdb")

    @pytest.mark.parametrize(("version", "sentence"), [(2, "used through heed"), (3, "lock file of version 3")])
    def test_of_another_protocol(self, tmp_path: Path, version: int, sentence: str) -> None:
        (tmp_path / "lock.mdb").write_bytes(MAGIC + struct.pack("<I", 0xABCDE000 + version))
        found = lock_version(tmp_path / "lock.mdb")
        assert found == version
        assert sentence in str(foreign_lock(tmp_path / "data.mdb", found))

    def test_of_this_protocol(self, tmp_path: Path) -> None:
        assert foreign_lock(tmp_path / "data.mdb", 1) is None
        assert foreign_lock(tmp_path / "data.mdb", None) is None

    def test_whose_mutexes_it_has(self, data: Path) -> None:
        lock = data.with_name("lock.mdb")
        own = lock_library(lock)
        assert own == ("glibc" if "glibc" in platform.libc_ver() else "musl")
        content = bytearray(lock.read_bytes())
        # The first mutex begins at byte 8. A locked one of glibc begins with the number of a thread, whichever that is.
        for first, fifth, library in [(0x84, 0, "musl"), (0x84, 0x90, "glibc"), (0, 0x90, "glibc"), (0, 0, None)]:
            content[8:28] = struct.pack("<IIIII", first, 0, 0, 0, fifth)
            lock.write_bytes(content)
            assert lock_library(lock) == library
        lock.write_bytes(content[:20])
        assert lock_library(lock) is None
