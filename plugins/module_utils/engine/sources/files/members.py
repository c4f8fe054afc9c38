# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The form of one member of the tar: a header in pax format, written in one way only.

Source of the format: POSIX.1-2008, pax; GNU tar for sparse files (GNU.sparse, 1.0) and extended attributes
(SCHILY.xattr), so that it unpacks them by hand. Names are bytes, as the system has them.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, List, NamedTuple, Tuple

from ...errors import CorruptError
from ...paths import is_owner

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, HARD_LINK, LINK, DIRECTORY = b"0", b"1", b"2", b"5"
# The directory itself, as a member.
TOP = b"."
DEEPEST = 200
LONGEST_NAME, LONGEST_PATH = 255, 1 << 16
MOST_ATTRIBUTES = 1 << 20
MOST_SEGMENTS = 1 << 15
_EXTENDED = b"x"
_LARGEST = 1 << 62
_LATEST_NS = (1 << 33) * 10**9
_OCTAL_7, _OCTAL_11 = 8**7, 8**11
_ATTRIBUTE = b"SCHILY.xattr."
_KEPT = (b"user.", b"system.posix_acl_access", b"system.posix_acl_default")
_MOST_EXTENDED = MOST_ATTRIBUTES + 4 * LONGEST_PATH
_NANOSECONDS = 10**9
_MOST_DIGITS = 20


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the tar. size is that of the content as an application sees it, stored what follows the header.

    names tells how many names a file has where it has several: those that follow are of kind HARD_LINK. target is where
    a link leads to, for a hard link the path of its file. mtime is in nanoseconds. A sparse file is stored as its map
    and what is no hole.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    stored: int = 0
    target: bytes = b""
    names: int = 1
    is_sparse: bool = False
    attributes: Dict[bytes, bytes] = dataclasses.field(default_factory=dict)


def is_kept(attribute: bytes) -> bool:
    """Whether an extended attribute travels: those of users, and access lists. Others are of the host."""
    return attribute.startswith(_KEPT[0]) or attribute in _KEPT[1:]


def encode(member: Member) -> bytes:
    """The header, with its extended part where it needs one."""
    extended = _records(member)
    header = _header(member)
    if not extended:
        return header
    return _block(b"././@PaxHeader", _EXTENDED, (0, 0, 0, len(extended), 0), b"") + padded(extended) + header


def decode(read: Callable[[int], bytes]) -> Tuple[Member, bytes]:
    """Read one header, and return the member with its bytes; at the end of the tar it is of no kind.

    Nothing but what encode writes is understood. Raises CorruptError.
    """
    raw = read(BLOCK)
    if not raw.strip(b"\0"):
        return Member(b"", b"", 0, 0, 0, 0), raw
    records: Dict[bytes, bytes] = {}
    if raw[156:157] == _EXTENDED:
        size = _octal(raw[124:136])
        if size > _MOST_EXTENDED:
            raise CorruptError("the tar has a header that is too long")
        extended = read(size + -size % BLOCK)
        records = _parsed(extended[:size])
        header = read(BLOCK)
        raw += extended + header
    else:
        header = raw
    try:
        member = _member(header, records)
    except ValueError as error:
        raise CorruptError("the tar has a header that does not make sense") from error
    _check(member)
    if encode(member) != raw:
        raise CorruptError(f"the tar has a header of {shown(member.path)} in a form that is never written")
    return member, raw


def padded(data: bytes) -> bytes:
    """With zeros up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def shown(path: bytes) -> str:
    """A name for a message: one line, and not too long."""
    return repr(path[:LONGEST_NAME].decode("utf-8", "backslashreplace"))


class Segment(NamedTuple):
    """A part of a sparse file that is no hole."""

    offset: int
    size: int


def encode_map(segments: List[Segment]) -> bytes:
    """What a sparse file begins with."""
    numbers = [len(segments), *(number for segment in segments for number in segment)]
    return padded(b"".join(b"%d\n" % number for number in numbers))


def decode_map(read: Callable[[int], bytes], member: Member) -> List[Segment]:
    """Read the map of a sparse file. Raises CorruptError."""
    blocks = [read(BLOCK)]
    count = _leading_number(blocks[0], member)
    if count > MOST_SEGMENTS:
        raise CorruptError(f"the map of {shown(member.path)} in the tar is too long")
    missing = 2 * count + 1 - blocks[0].count(b"\n")
    while missing > 0:
        if b"\0" in blocks[-1]:
            raise CorruptError(f"the map of {shown(member.path)} in the tar does not make sense")
        blocks.append(read(BLOCK))
        missing -= blocks[-1].count(b"\n")
    data = b"".join(blocks)
    try:
        numbers = [_number(line) for line in data.split(b"\n")[1 : 2 * count + 1]]
    except ValueError as error:
        raise CorruptError(f"the map of {shown(member.path)} in the tar does not make sense") from error
    segments = [Segment(*pair) for pair in zip(numbers[::2], numbers[1::2])]
    _check_map(segments, member, len(data))
    if encode_map(segments) != data:
        raise CorruptError(f"the map of {shown(member.path)} in the tar is in a form that is never written")
    return segments


def _check_map(segments: List[Segment], member: Member, length: int) -> None:
    end = 0
    for segment in segments:
        if not end <= segment.offset <= segment.offset + segment.size <= member.size:
            raise CorruptError(f"the map of {shown(member.path)} in the tar does not make sense")
        end = segment.offset + segment.size
    if end != member.size or length + sum(segment.size for segment in segments) != member.stored:
        raise CorruptError(f"the map of {shown(member.path)} in the tar is not of its size")


def _leading_number(data: bytes, member: Member) -> int:
    try:
        return _number(data.partition(b"\n")[0])
    except ValueError as error:
        raise CorruptError(f"the map of {shown(member.path)} in the tar does not make sense") from error


def _records(member: Member) -> bytes:
    """The records of the extended header, in this order."""
    records: List[Tuple[bytes, bytes]] = []
    if member.is_sparse:
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", member.path)]
        records += [(b"GNU.sparse.realsize", b"%d" % member.size)]
    elif len(_told(member)) > 100:
        records.append((b"path", _told(member)))
    if len(member.target) > 100:
        records.append((b"linkpath", member.target))
    if member.names > 1:
        records.append((b"comment", b"names=%d" % member.names))
    records += [
        (key, b"%d" % value) for key, value in ((b"uid", member.uid), (b"gid", member.gid)) if value >= _OCTAL_7
    ]
    if member.stored >= _OCTAL_11:
        records.append((b"size", b"%d" % member.stored))
    if member.mtime % _NANOSECONDS or not 0 <= member.mtime < _OCTAL_11 * _NANOSECONDS:
        records.append((b"mtime", _decimal(member.mtime)))
    records += [(_ATTRIBUTE + _quoted(name), value) for name, value in sorted(member.attributes.items())]
    return b"".join(_record(key, value) for key, value in records)


def _record(key: bytes, value: bytes) -> bytes:
    """Its length comes first, and counts itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def _parsed(data: bytes) -> Dict[bytes, bytes]:
    records: Dict[bytes, bytes] = {}
    while data:
        length, _found, _rest = data[:20].partition(b" ")
        size = int(length) if length.isdigit() else 0
        record, data = data[:size], data[size:]
        key, found, value = record[len(length) + 1 :].partition(b"=")
        if not found or not value.endswith(b"\n") or key in records:
            raise CorruptError("the tar has an extended header that does not make sense")
        records[key] = value[:-1]
    return records


def _header(member: Member) -> bytes:
    name = b"GNUSparseFile.0/" + member.path if member.is_sparse else _told(member)
    uid, gid = (number if number < _OCTAL_7 else 0 for number in (member.uid, member.gid))
    stored = member.stored if member.stored < _OCTAL_11 else 0
    seconds = member.mtime // _NANOSECONDS
    mtime = seconds if 0 <= seconds < _OCTAL_11 else 0
    return _block(name, member.kind, (member.mode, uid, gid, stored, mtime), member.target)


def _block(name: bytes, kind: bytes, numbers: Tuple[int, int, int, int, int], target: bytes) -> bytes:
    """numbers are mode, uid, gid, size and mtime."""
    start = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name[:100].ljust(100, b"\0"), *numbers)
    end = kind + target[:100].ljust(100, b"\0") + b"ustar\x0000"
    block = (start + b" " * 8 + end).ljust(BLOCK, b"\0")
    return start + b"%06o\0 " % sum(block) + block[len(start) + 8 :]


def _told(member: Member) -> bytes:
    """A directory is told by a slash at the end."""
    return member.path + b"/" if member.kind == DIRECTORY else member.path


def _member(header: bytes, records: Dict[bytes, bytes]) -> Member:
    kind = header[156:157]
    is_sparse = b"GNU.sparse.name" in records
    told = records.get(b"path", header[:100].rstrip(b"\0"))
    path = records[b"GNU.sparse.name"] if is_sparse else told[: -1 if kind == DIRECTORY else None]
    stored = _number(records[b"size"]) if b"size" in records else _octal(header[124:136])
    comment = records.get(b"comment", b"names=1")
    return Member(
        path=path,
        kind=kind,
        mode=_octal(header[100:108]),
        uid=_number(records[b"uid"]) if b"uid" in records else _octal(header[108:116]),
        gid=_number(records[b"gid"]) if b"gid" in records else _octal(header[116:124]),
        mtime=_nanoseconds(records[b"mtime"]) if b"mtime" in records else _octal(header[136:148]) * _NANOSECONDS,
        size=_number(records.get(b"GNU.sparse.realsize", b"")) if is_sparse else stored,
        stored=stored,
        target=records.get(b"linkpath", header[157:257].rstrip(b"\0")),
        names=_number(comment[len(b"names=") :]),
        is_sparse=is_sparse,
        attributes={
            _plain(key[len(_ATTRIBUTE) :]): value for key, value in records.items() if key.startswith(_ATTRIBUTE)
        },
    )


def _check(member: Member) -> None:
    """What a header must not tell, in whatever form."""
    name = shown(member.path)
    if member.kind not in (FILE, HARD_LINK, LINK, DIRECTORY):
        raise CorruptError(f"the tar has {name}, which is neither a file nor a directory nor a link")
    parts = member.path.split(b"/")
    if member.path != TOP and any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise CorruptError(f"the tar has the unsafe name {name}")
    if len(parts) > DEEPEST or len(member.path) > LONGEST_PATH or max(map(len, parts)) > LONGEST_NAME:
        raise CorruptError(f"the tar has {name}, a name that is too long")
    if member.path == TOP and member.kind != DIRECTORY:
        raise CorruptError("the tar does not begin with a directory")
    if not is_owner(member.uid, member.gid) or not abs(member.mtime) < _LATEST_NS:
        raise CorruptError(f"the tar has {name} with an owner or a time out of range")
    if not 0 <= member.mode <= (0o3777 if member.kind == DIRECTORY else 0o777):
        raise CorruptError(f"the tar has {name} with a mode out of range")
    _check_content(member, name)


def _check_content(member: Member, name: str) -> None:
    is_file = member.kind == FILE
    if not 0 <= member.stored <= _LARGEST or not 0 <= member.size <= _LARGEST:
        raise CorruptError(f"the tar has {name} with a size out of range")
    if not is_file and (member.stored or member.is_sparse or member.names != 1):
        raise CorruptError(f"the tar has {name} with a content that it cannot have")
    if member.names < 1 or bool(member.target) != (member.kind in (LINK, HARD_LINK)) or b"\0" in member.target:
        raise CorruptError(f"the tar has {name} with a link that makes no sense")
    if len(member.target) > LONGEST_PATH:
        raise CorruptError(f"the tar has {name} with a link that is too long")
    if member.attributes and (member.kind not in (FILE, DIRECTORY) or not all(map(is_kept, member.attributes))):
        raise CorruptError(f"the tar has {name} with attributes that it cannot have")
    if any(b"\0" in key or len(key) > LONGEST_NAME for key in member.attributes):
        raise CorruptError(f"the tar has {name} with attributes that it cannot have")


def _number(text: bytes) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(text)
    return int(text)


def _octal(field: bytes) -> int:
    text = field[:-1]
    if not text or text.strip(b"01234567"):
        raise CorruptError("the tar has a header that does not make sense")
    return int(text, 8)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _NANOSECONDS)
    return b"%s%d.%09d" % (sign, seconds, rest)


def _nanoseconds(text: bytes) -> int:
    sign = -1 if text.startswith(b"-") else 1
    seconds, _point, rest = text.lstrip(b"-").partition(b".")
    return sign * (_number(seconds) * _NANOSECONDS + _number(rest.ljust(9, b"0")))


def _quoted(name: bytes) -> bytes:
    """As GNU tar has names with the sign that ends a key."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def _plain(name: bytes) -> bytes:
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")
