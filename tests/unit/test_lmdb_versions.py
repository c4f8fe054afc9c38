# SPDX-License-Identifier: GPL-3.0-or-later
"""The meta pages of DLMDB and of LMDB 1.0: as their engines wrote them, and damaged in every way there is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb.format import (
    DLMDB,
    KNOWN,
    LMDB,
    LMDB_1,
    parse_metas,
    read_metas,
)

PAGE = 4096
MAP_SIZE = 1 << 24
HEADER = {LMDB: 16, DLMDB: 16, LMDB_1: 24}
META = 136

# The first bytes of the pages 0 and 1, after three transactions that put a record each in an environment of 16 MiB:
# by DLMDB 1.1.0 of Datalevin 1.2.8, and by LMDB 1.0.2 of py-lmdb 3.0.0.
REAL = {
    DLMDB: """
        00000000000000000000080000000000dec0efbe02000000000000000000000000000001000000000010000008000100
        000000000000000001000000000000000000000000000000010000000000000004000000000000000000000000000100
        000000000000000001000000000000000000000000000000020000000000000003000000000000000400000000000000
        0200000000000000

        01000000000000000000080000000000dec0efbe02000000000000000000000000000001000000000010000008000100
        000000000000000001000000000000000000000000000000020000000000000006000000000000000000000000000100
        000000000000000001000000000000000000000000000000030000000000000005000000000000000600000000000000
        0300000000000000
    """,
    LMDB_1: """
        000000000000000000000000000000000000080000000000dec0efbe0300000000000000000000000000000100000000
        001000000800010000000000000000000100000000000000000000000000000001000000000000000400000000000000
        000000000000010000000000000000000100000000000000000000000000000002000000000000000300000000000000
        04000000000000000200000000000000

        010000000000000000000000000000000000080000000000dec0efbe0300000000000000000000000000000100000000
        001000000800010000000000000000000100000000000000000000000000000002000000000000000600000000000000
        000000000000010000000000000000000100000000000000000000000000000003000000000000000500000000000000
        06000000000000000300000000000000
    """,
}


def made(version: int, txnid: int, *, entries: int = 3, last_page: int = 6, page_size: int = PAGE) -> bytes:
    """A meta page as mdb.c lays it out: its header, then struct MDB_meta with two of struct MDB_db."""
    free = struct.pack("<IHHQQQQQ", page_size, 8, 1, 0, 1, 0, txnid - 1, last_page)
    main = struct.pack("<IHHQQQQQ", 0, 0, 1, 0, 1, 0, entries, last_page - 1)
    meta = struct.pack("<IIQQ", 0xBEEFC0DE, version, 0, MAP_SIZE) + free + main + struct.pack("<QQ", last_page, txnid)
    return (bytes(HEADER[version]) + meta).ljust(page_size, b"\0")


def real(version: int) -> bytes:
    return b"".join(bytes.fromhex(page).ljust(PAGE, b"\0") for page in REAL[version].split("\n\n"))


def changed(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize("version", REAL)
def test_what_the_engines_wrote(version: int) -> None:
    current, previous = parse_metas(real(version), KNOWN)
    assert (current.data_version, current.page_size, current.map_size) == (version, PAGE, MAP_SIZE)
    assert (current.txnid, current.main_entries, current.last_page, current.used_size) == (3, 3, 6, 7 * PAGE)
    assert (previous.txnid, previous.main_entries, previous.last_page) == (2, 2, 4)
    assert current.fingerprint != previous.fingerprint


@pytest.mark.parametrize("version", REAL)
def test_what_is_made_here_is_laid_out_as_the_engines_do(version: int) -> None:
    """So that what the other tests say of made pages holds for real ones."""
    pages = made(version, 2, entries=2, last_page=4) + made(version, 3)
    for start in (HEADER[version], PAGE + HEADER[version]):
        assert pages[start : start + META] == real(version)[start : start + META]


@pytest.mark.parametrize("version", KNOWN)
@pytest.mark.parametrize("newest", [0, 1])
def test_the_newer_of_both_is_current_wherever_it_is(version: int, newest: int) -> None:
    pages = [made(version, 8), made(version, 8)]
    pages[newest] = made(version, 9, last_page=20)
    assert [meta.txnid for meta in parse_metas(b"".join(pages), KNOWN)] == [9, 8]
    assert parse_metas(b"".join(pages), KNOWN)[0].last_page == 20


@pytest.mark.parametrize("version", KNOWN)
@pytest.mark.parametrize("torn", [0, 8, 20, 100], ids=lambda place: f"{place} bytes of it are there")
def test_a_torn_meta_page(version: int, torn: int) -> None:
    """What a file system may leave of a page that was being written, when the machine lost its power."""
    start = HEADER[version]
    whole, half = made(version, 8), made(version, 9)[: start + torn].ljust(PAGE, b"\0")
    known = parse_metas(whole + half, KNOWN)
    # Its transaction is written last: as long as it is missing, the other one is current.
    assert known[0].txnid == 8
    assert len(known) == (1 if torn < 40 else 2)
    # The first one tells the size of a page, without which nobody finds the second.
    assert [meta.txnid for meta in parse_metas(half + whole, KNOWN)] == ([] if torn < 40 else [8, 0])


@pytest.mark.parametrize("version", KNOWN)
def test_both_torn(version: int, tmp_path: Path) -> None:
    data = tmp_path / "data.mdb"
    page = made(version, 9)[: HEADER[version] + 20].ljust(PAGE, b"\0")
    data.write_bytes(page * 2 + bytes(5 * PAGE))
    with pytest.raises(SourceError, match="makes no sense: it is damaged"):
        read_metas(data, KNOWN)


@pytest.mark.parametrize("version", KNOWN)
@pytest.mark.parametrize("page_size", [0, 1, 128, 255, 3000, 4095, 4097, 1 << 17, (1 << 32) - 1])
def test_a_page_size_that_none_has(version: int, page_size: int) -> None:
    place = HEADER[version] + 24
    pages = changed(made(version, 9), place, struct.pack("<I", page_size)) + made(version, 8)
    assert parse_metas(pages, KNOWN) == []


@pytest.mark.parametrize("version", KNOWN)
@pytest.mark.parametrize("page_size", [256, 512, 8192, 16384, 65536])
def test_page_sizes_of_other_machines(version: int, page_size: int) -> None:
    pages = made(version, 8, page_size=page_size) + made(version, 9, page_size=page_size)
    current = parse_metas(pages, KNOWN)[0]
    assert (current.txnid, current.page_size, current.used_size) == (9, page_size, 7 * page_size)


@pytest.mark.parametrize("version", KNOWN)
def test_cut_off_anywhere(version: int, tmp_path: Path) -> None:
    data, pages = tmp_path / "data.mdb", made(version, 8) + made(version, 9)
    whole = HEADER[version] + META
    found = {size: len(parse_metas(pages[:size], KNOWN)) for size in range(2 * PAGE)}
    assert found == {size: (size >= whole) + (size >= PAGE + whole) for size in found}
    data.write_bytes(pages + bytes(5 * PAGE - 1))
    with pytest.raises(SourceError, match=f"is truncated: it has {7 * PAGE - 1} bytes"):
        read_metas(data, KNOWN)
    data.write_bytes(pages + bytes(5 * PAGE))
    assert read_metas(data, KNOWN)[0].txnid == 9


@pytest.mark.parametrize("version", KNOWN)
def test_a_version_at_the_place_of_another(version: int) -> None:
    """The magic of LMDB 1.0 is at 24, that of all others at 16; both pages are of one version."""
    shifted = {LMDB: 8, DLMDB: 8, LMDB_1: -8}[version]
    page = made(version, 9)
    moved = bytes(8) + page[:-8] if shifted > 0 else page[8:] + bytes(8)
    assert parse_metas(moved * 2, KNOWN) == []
    other = next(one for one in KNOWN if one != version)
    assert [meta.data_version for meta in parse_metas(page + made(other, 99), KNOWN)] == [version]
    assert parse_metas(page * 2, tuple(one for one in KNOWN if one != version)) == []


@pytest.mark.parametrize("version", KNOWN)
def test_the_address_of_the_map_is_no_part_of_the_state(version: int) -> None:
    page = made(version, 9)
    moved = changed(page, HEADER[version] + 8, struct.pack("<Q", 0x7F0000000000))
    (one, _same), (two, _also) = parse_metas(page * 2, KNOWN), parse_metas(moved * 2, KNOWN)
    assert one.fingerprint == two.fingerprint
    for place, new in ((16, 1 << 30), (112, 4), (120, 7), (128, 10)):
        other = changed(page, HEADER[version] + place, struct.pack("<Q", new))
        assert parse_metas(other * 2, KNOWN)[0].fingerprint != one.fingerprint
