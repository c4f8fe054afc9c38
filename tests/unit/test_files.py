# SPDX-License-Identifier: GPL-3.0-or-later
"""The tar of a directory: what is written is read alike by us and by others, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, CorruptError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files import members, reading, selection
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.inventory import survey
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.listing import Listing, Tally
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.members import Member, Segment
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.selection import Selection
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.unpacking import unpack
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.files.writing import write
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.stream.stages import Bytes, Stage
from ansible_collections.embedded.db_backup.tests.tools import bytes_of
from hypothesis import given
from hypothesis import strategies as st

OWNER = {"uid": os.geteuid(), "gid": os.getegid()}
TOP = Member(b".", members.DIRECTORY, 0o755, **OWNER, mtime=1_700_000_000_123_456_789)
PLAIN = Member(b"a", members.FILE, 0o644, **OWNER, mtime=5, size=3, stored=3)
INNER = Member(b"b", members.DIRECTORY, 0o700, **OWNER, mtime=6)
LINK = Member(b"c", members.LINK, 0o777, **OWNER, mtime=7, target=b"../etc")
NAMED = dataclasses.replace(PLAIN, path=b"d", names=2)
AGAIN = dataclasses.replace(PLAIN, path=b"e", kind=members.HARD_LINK, size=0, stored=0, target=b"d")
MAP = (Segment(0, 2), Segment(70_000, 3), Segment(100_000, 0))
SPARSE = dataclasses.replace(PLAIN, path=b"f", size=100_000, stored=512 + 5, is_sparse=True)


class Kept(Stage):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__(None)
        self.bytes = b""

    def write(self, data: Bytes) -> int:
        self.bytes += bytes(data)
        return len(data)


def stored(member: Member, content: bytes = b"") -> bytes:
    """A member as it is in a tar."""
    return members.encode(member) + members.padded(content or b"x" * member.stored)


def archive(*parts: bytes) -> bytes:
    return stored(TOP) + b"".join(parts) + members.END


def told_of(*found: Member) -> Listing:
    """What a manifest tells of members whose files hold nothing but x."""
    tally = Tally()
    for member in (TOP, *found):
        tally.add(member)
        if member.kind == members.FILE:
            tally.add_content(0, b"x" * member.size)
    return tally.result()


def sparse(segments: Sequence[Segment] = MAP, **fields: int) -> bytes:
    return stored(dataclasses.replace(SPARSE, **fields), members.encode_map(list(segments)) + b"x" * 5)


def raw(**fields: object) -> bytes:
    """A member as another program writes it."""
    info = tarfile.TarInfo()
    content = fields.pop("content", b"")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.PAX_FORMAT) + members.padded(bytes(content))


def changed(member: Member, offset: int, data: bytes, *, is_summed: bool = True) -> bytes:
    """A header with other bytes, whose checksum is right nevertheless."""
    header = bytearray(members.encode(member))
    header[offset : offset + len(data)] = data
    if is_summed:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + members.padded(b"x" * member.stored)


def records(text: bytes, member: Member = PLAIN) -> bytes:
    """A member with an extended header of this text."""
    prior = members._block(b"././@PaxHeader", b"x", (0, 0, 0, len(text), 0), b"")
    return prior + members.padded(text) + stored(member)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no end": stored(TOP) + stored(PLAIN),
    "half an end": stored(TOP) + bytes(512),
    "more after the end": archive() + bytes(512),
    "no directory": stored(PLAIN) + members.END,
    "directory twice": archive(stored(TOP)),
    "top is a file": stored(dataclasses.replace(PLAIN, path=b".")) + members.END,
    "absolute": archive(stored(dataclasses.replace(PLAIN, path=b"/etc/passwd"))),
    "above": archive(stored(dataclasses.replace(PLAIN, path=b"../a"))),
    "above in the midst": archive(stored(INNER), stored(dataclasses.replace(PLAIN, path=b"b/../../a"))),
    "dot in the midst": archive(stored(INNER), stored(dataclasses.replace(PLAIN, path=b"b/./a"))),
    "two slashes": archive(stored(INNER), stored(dataclasses.replace(PLAIN, path=b"b//a"))),
    "empty name": archive(stored(dataclasses.replace(PLAIN, path=b""))),
    "long name": archive(stored(dataclasses.replace(PLAIN, path=b"x" * 256))),
    "deep": archive(stored(dataclasses.replace(PLAIN, path=b"/".join([b"x"] * 201)))),
    "twice": archive(stored(PLAIN), stored(PLAIN)),
    "out of order": archive(stored(INNER), stored(PLAIN)),
    "back to a directory": archive(stored(INNER), stored(LINK), stored(dataclasses.replace(PLAIN, path=b"b/a"))),
    "in no directory": archive(stored(dataclasses.replace(PLAIN, path=b"b/a"))),
    "below a file": archive(stored(PLAIN), stored(dataclasses.replace(PLAIN, path=b"a/a"))),
    "below a link": archive(stored(LINK), stored(dataclasses.replace(PLAIN, path=b"c/a"))),
    "hard link to nothing": archive(stored(AGAIN)),
    "hard link to a link": archive(stored(LINK), stored(dataclasses.replace(AGAIN, target=b"c"))),
    "hard link to what is told to have one name": archive(
        stored(PLAIN), stored(dataclasses.replace(AGAIN, target=b"a"))
    ),
    "hard link to the outside": archive(stored(NAMED), stored(dataclasses.replace(AGAIN, target=b"/etc/shadow"))),
    "more hard links than names": archive(stored(NAMED), stored(AGAIN), stored(dataclasses.replace(AGAIN, path=b"f"))),
    "hard link with content": archive(stored(NAMED), stored(dataclasses.replace(AGAIN, stored=3))),
    "link to nowhere": archive(stored(dataclasses.replace(LINK, target=b""))),
    "directory with content": archive(stored(dataclasses.replace(INNER, stored=3))),
    "device": archive(raw(name="a", type=tarfile.BLKTYPE, devmajor=8)),
    "character device": archive(raw(name="a", type=tarfile.CHRTYPE)),
    "pipe": archive(raw(name="a", type=tarfile.FIFOTYPE)),
    "old regular file": archive(raw(name="a", type=tarfile.AREGTYPE)),
    "contiguous file": archive(raw(name="a", type=tarfile.CONTTYPE)),
    "GNU long name": archive(raw(name="././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=3, content=b"abc")),
    "old GNU sparse file": archive(raw(name="a", type=tarfile.GNUTYPE_SPARSE)),
    "global header": archive(raw(name="g", type=tarfile.XGLTYPE, size=13, content=b"13 path=/etc\n")),
    "setuid": archive(changed(PLAIN, 100, b"0004755\0")),
    "setuid directory": archive(changed(INNER, 100, b"0004755\0")),
    "owner of nobody": archive(stored(dataclasses.replace(PLAIN, uid=(1 << 32) - 1))),
    "negative size": archive(records(b"12 size=-10\n")),
    "size of another": archive(changed(PLAIN, 124, b"00000000777\0")),
    "size as binary": archive(changed(PLAIN, 124, b"\x80" + b"\0" * 10 + b"\3")),
    "number with a blank": archive(changed(PLAIN, 124, b"         3 \0")),
    "wrong checksum": archive(changed(PLAIN, 100, b"0000600\0", is_summed=False)),
    "user names": archive(changed(PLAIN, 265, b"root")),
    "prefix": archive(changed(PLAIN, 345, b"../..")),
    "GNU magic": archive(changed(PLAIN, 257, b"ustar  \0")),
    "hidden behind the name": archive(changed(PLAIN, 5, b"hidden")),
    "garbage behind the header": archive(changed(PLAIN, 505, b"x")),
    "path that need not be extended": archive(records(b"10 path=a\n")),
    "path that escapes": archive(records(b"16 path=../etc/x\n")),
    "record that is too long": archive(records(b"99 path=a\n")),
    "record without a length": archive(records(b"path=a\n")),
    "record of no length": archive(records(b"0 path=a\n")),
    "record twice": archive(records(b"15 comment=abc\n" * 2)),
    "record nobody knows": archive(records(b"13 GNU.x=abc\n")),
    "long number": archive(records(b"1010 size=%s\n" % (b"1" * 1000))),
    "number with signs": archive(records(b"14 size=1_000\n")),
    "header without end": archive(members._block(b"././@PaxHeader", b"x", (0, 0, 0, 1 << 30, 0), b"")),
    "header of a length that is not octal": archive(
        members._block(b"././@PaxHeader", b"x", (0, 0, 0, 0, 0), b"").replace(b"0" * 11 + b"\0", b"00000000999\0", 1)
    ),
    "attribute of the host": archive(
        stored(dataclasses.replace(PLAIN, attributes={b"security.capability": b"\1\0\0\2" + b"\xff" * 16}))
    ),
    "attribute of a link": archive(stored(dataclasses.replace(LINK, attributes={b"user.x": b"y"}))),
    "content behind the end of a file": archive(stored(PLAIN, b"xxxy")),
    "map that overlaps": archive(sparse([Segment(0, 4), Segment(2, 1), Segment(100_000, 0)])),
    "map out of order": archive(sparse([Segment(70_000, 3), Segment(0, 2), Segment(100_000, 0)])),
    "map beyond the end": archive(sparse([Segment(0, 2), Segment(99_999, 3)])),
    "map that ends early": archive(sparse([Segment(0, 2), Segment(70_000, 3)])),
    "map of another size": archive(sparse([Segment(0, 2), Segment(70_000, 2), Segment(100_000, 0)])),
    "map that is too long": archive(stored(SPARSE, members.padded(b"99999999\n") + b"x" * 5)),
    "map that is no map": archive(stored(SPARSE, members.padded(b"abc\n") + b"x" * 5)),
    "map with signs": archive(stored(SPARSE, members.padded(b"3\n0\n2\n70_000\n3\n100000\n0\n") + b"x" * 5)),
    "map without end": archive(stored(SPARSE, b"9" * 512 + b"x" * 5)),
    "negative map": archive(sparse([Segment(0, 2), Segment(70_000, -3), Segment(100_000, 0)])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, tmp_path: Path) -> None:
    """Refused in both ways of reading, for what it is and not for its sums; nothing is made outside of the target."""
    told = told_of(PLAIN)
    with pytest.raises(CorruptError, match=r"^(?!.*manifest tells)"):
        reading.check(io.BytesIO(HOSTILE[name]), told)
    with pytest.raises(CorruptError, match=r"^(?!.*manifest tells)"):
        unpack(io.BytesIO(HOSTILE[name]), told, tmp_path / "target", None, None)
    assert sorted(os.listdir(tmp_path)) in ([], ["target"])


GOOD = (PLAIN, INNER, LINK, NAMED, AGAIN)


def test_good(tmp_path: Path) -> None:
    """That the hostile ones are refused is worth something only where these are not."""
    tar = archive(*map(stored, GOOD), sparse())
    tally = Tally()
    for member in (TOP, *GOOD):
        tally.add(member)
        if member.kind == members.FILE:
            tally.add_content(0, b"xxx")
    tally.add(SPARSE)
    for segment in MAP:
        tally.add_content(segment.offset, b"x" * segment.size)
    told = tally.result()
    reading.check(io.BytesIO(tar), told)
    assert unpack(io.BytesIO(tar), told, tmp_path / "target", None, None) == []
    assert survey(tmp_path / "target") == told
    assert bytes_of(tmp_path / "target") == {
        "a": b"xxx",
        "b": None,
        "c": "../etc",
        "d": b"xxx",
        "e": b"xxx",
        "f": b"xx".ljust(70_000, b"\0") + b"xxx".ljust(30_000, b"\0"),
    }
    assert (tmp_path / "target/d").samefile(tmp_path / "target/e")
    assert (tmp_path / "target").stat().st_mtime_ns == TOP.mtime
    with tarfile.open(fileobj=io.BytesIO(tar)) as others:
        assert [member.name for member in others] == [".", "a", "b", "c", "d", "e", "f"]


def test_every_part_of_it_counts() -> None:
    """One byte more or less, or another one, is seen at any place."""
    tar, told = archive(*map(stored, GOOD)), told_of(*GOOD)
    reading.check(io.BytesIO(tar), told)
    for place in range(0, len(tar), 7):
        with pytest.raises(CorruptError):
            reading.check(io.BytesIO(tar[:place]), told)
        if tar[:place].endswith(b"names="):
            # How many more names there are outside makes no difference.
            continue
        with pytest.raises(CorruptError):
            reading.check(io.BytesIO(tar[:place] + bytes([tar[place] ^ 1]) + tar[place + 1 :]), told)


ATTRIBUTED = dataclasses.replace(PLAIN, path=b"g", attributes={b"user.x": b"y"}, mtime=5)
ALL_FORMS = archive(stored(PLAIN), stored(LINK), stored(ATTRIBUTED)) + archive(sparse()) + archive(stored(NAMED))


@given(
    st.lists(
        st.tuples(st.integers(0, len(ALL_FORMS) - 1), st.one_of(st.integers(0, 255), st.sampled_from(b"0789-+_ \n\0"))),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0, len(archive(stored(PLAIN), stored(LINK), stored(ATTRIBUTED)))]),
)
def test_whatever_bytes_are_changed(changes: list[tuple[int, int]], start: int) -> None:
    """The reader never fails in another way than by its own error; the sums are right again."""
    data = bytearray(ALL_FORMS)
    for place, value in changes:
        data[place] = value
    for place in range(0, len(data) - 511, 512):
        if data[place + 257 : place + 262] == b"ustar":
            header = data[place : place + 512]
            header[148:156] = b" " * 8
            data[place + 148 : place + 156] = b"%06o\0 " % sum(header)
    with pytest.raises(CorruptError):
        reading.check(io.BytesIO(bytes(data[start:])), told_of(PLAIN))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Listing)])
def test_what_the_manifest_tells_counts(field: str) -> None:
    told = told_of(*GOOD)
    value = getattr(told, field)
    other = dataclasses.replace(told, **{field: value + 1 if isinstance(value, int) else "0" * 64})
    with pytest.raises(CorruptError, match="the manifest tells"):
        reading.check(io.BytesIO(archive(*map(stored, GOOD))), other)


names = st.binary(min_size=1, max_size=120).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))


@given(
    st.lists(names, min_size=1, max_size=4).map(b"/".join),
    st.tuples(st.integers(0, 0o777), st.integers(0, (1 << 32) - 2), st.integers(-(10**18), 8 * 10**18)),
    st.integers(0, 1 << 50),
    st.dictionaries(names.map(lambda name: b"user." + name), st.binary(max_size=600), max_size=3),
)
def test_headers_are_read_as_they_were_written(
    path: bytes, numbers: tuple[int, int, int], size: int, attributes: dict[bytes, bytes]
) -> None:
    mode, owner, mtime = numbers
    member = Member(path, members.FILE, mode, owner, owner, mtime, size, size, attributes=attributes)
    for one in (
        member,
        dataclasses.replace(member, is_sparse=True, size=size + 5),
        dataclasses.replace(member, kind=members.DIRECTORY, size=0, stored=0),
        Member(path, members.LINK, mode, owner, owner, mtime, target=path),
    ):
        assert members.decode(io.BytesIO(members.encode(one)).read)[0] == one


@given(st.lists(st.tuples(st.integers(0, 300_000), st.binary(min_size=1, max_size=90_000)), max_size=3))
def test_holes_are_zeros(parts: list[tuple[int, bytes]]) -> None:
    """The same content has the same digest, whatever of it was read as a hole, and in whatever parts."""
    parts = [(offset + number * 400_000, data) for number, (offset, data) in enumerate(parts)]
    whole = bytearray(1_300_000)
    for offset, data in parts:
        whole[offset : offset + len(data)] = data
    member = dataclasses.replace(PLAIN, size=len(whole))
    one, other = Tally(), Tally()
    one.add(member)
    other.add(member)
    for offset, data in parts:
        one.add_content(offset, data[:1000])
        one.add_content(offset + 1000, data[1000:])
    other.add_content(0, whole)
    assert one.result() == other.result()
    if any(whole):
        other.add(member)
        assert one.result() != other.result()


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("cache", {"keep", "deep", "deep/keep"}),
        ("*.tmp", {"keep", "cache", "cache/x", "deep", "deep/keep", "deep/cache"}),
        ("/cache", {"keep", "a.tmp", "deep", "deep/keep", "deep/cache", "deep/b.tmp"}),
        ("deep/*", {"keep", "a.tmp", "cache", "cache/x", "deep"}),
        ("d[a-e]ep/", {"keep", "a.tmp", "cache", "cache/x"}),
    ],
)
def test_exclude(tmp_path: Path, pattern: str, left: set[str]) -> None:
    for path in ("keep", "a.tmp", "cache/x", "deep/keep", "deep/cache", "deep/b.tmp"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    wanted = Selection(tmp_path, [pattern])
    wanted.begin(tmp_path)
    kept = Kept()
    write(kept, tmp_path, wanted)
    with tarfile.open(fileobj=io.BytesIO(kept.bytes)) as tar:
        found = {member.name for member in tar} - {"."}
    assert {name for name in found if not name.endswith(".tmp")} == {name for name in left if not name.endswith(".tmp")}
    assert found <= left | {"a.tmp", "deep/b.tmp"}


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "../a", "./a", "a/.."])
def test_patterns_that_match_nothing(pattern: str) -> None:
    with pytest.raises(BackupError, match="give a name or a path"):
        selection.check([pattern])
