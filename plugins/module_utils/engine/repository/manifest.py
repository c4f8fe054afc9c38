# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest: what a backup holds, where it came from and how to restore it by hand. Written once, then immutable.

The names are those of the field: pgBackRest, barman, Proxmox Backup Server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any, Dict, List, Optional

from ..decoding import DecodingError, decode, encode
from ..errors import CorruptError
from ..paths import is_owner, is_safe_relative, overlap
from ..stream.compression import SUFFIXES, Compression
from ..times import from_rfc3339, is_id

SCHEMA = 1
FORMAT = "embedded.db_backup"
FILE_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"
PROTECTION_NAME = "protected.json"
RESERVED_NAMES = (FILE_NAME, CHECKSUMS_NAME, PROTECTION_NAME)
# The consistency of a copy that may be torn, whatever its checksums say.
UNKNOWN = "unknown"
FULL, INCREMENT = "full", "incr"
# Whoever reads an increment reads and holds all below it, and a process may have 1024 files open.
LONGEST_CHAIN = 500
_CONTENTS = ("file", "tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Named:
    """A program and its version."""

    name: str
    version: str


@dataclasses.dataclass(frozen=True)
class Host:
    """The host a backup was made on."""

    hostname: str


@dataclasses.dataclass(frozen=True)
class Position:
    """A point in the history of a database: it was at least at start and at most at stop.

    kind names the unit (txnid, basis ...). fingerprint tells two databases at the same position apart. That of an
    increment begins where that of its prior backup ends.
    """

    kind: str
    start: int
    stop: int
    fingerprint: Optional[str] = None

    def continues(self, prior: Position) -> bool:
        """Whether what lies between the positions is all that happened since the prior one."""
        return (prior.kind, prior.fingerprint, prior.stop) == (self.kind, self.fingerprint, self.start) and (
            self.start <= self.stop
        )


@dataclasses.dataclass(frozen=True)
class Origin:
    """What was backed up: path on its host, size in bytes, and in details what only this engine knows."""

    path: str
    size: int
    position: Optional[Position] = None
    system_id: Optional[str] = None
    details: Dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How it was backed up. type is FULL or INCREMENT.

    reference has the ids of all that an increment cannot be restored without, the full one first, prior last.
    consistency is transaction, crash (as after a power cut), logical (an export), or UNKNOWN, which never makes a good
    backup.
    """

    method: str
    consistency: str
    online: bool
    copied_by: str
    type: str = FULL
    prior: Optional[str] = None
    reference: List[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """One stored file: path, size and sha256 of the content, repo_* of the stored bytes; mtime in ns.

    content is file, or tar for a stream of many files.
    """

    path: str
    size: int
    sha256: str
    repo_path: str
    repo_size: int
    repo_sha256: str
    mode: int
    mtime: int
    uid: int
    gid: int
    content: str = "file"


@dataclasses.dataclass(frozen=True)
class Check:
    """What was verified before the backup was published."""

    read_back: bool
    opened: bool
    timestamp: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """Sums over all files, in bytes, and the time the whole backup took."""

    size: int
    repo_size: int
    duration_ms: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest as a whole."""

    id: str
    job: str
    tool: Named
    host: Host
    engine: Named
    source: Origin
    backup: Kind
    timestamp_start: str
    timestamp_copy_start: str
    timestamp_stop: str
    files: List[FileRecord]
    compression: Compression
    summary: Summary
    check: Optional[Check] = None
    encryption: Optional[Dict[str, Any]] = None
    annotation: Dict[str, str] = dataclasses.field(default_factory=dict)
    restore_by_hand: List[str] = dataclasses.field(default_factory=list)
    status: str = "complete"
    schema: int = SCHEMA
    format: str = FORMAT

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON, the details of the source among its other fields."""
        value: Dict[str, Any] = encode(self)
        value["source"].update(value["source"].pop("details"))
        return value

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return (json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n").encode()


def checksums(manifest: Manifest, manifest_bytes: bytes) -> bytes:
    """The SHA256SUMS file that belongs to a manifest, in the format of GNU sha256sum."""
    lines = [f"{record.repo_sha256}  {record.repo_path}\n" for record in manifest.files]
    lines.append(f"{hashlib.sha256(manifest_bytes).hexdigest()}  {FILE_NAME}\n")
    return "".join(lines).encode()


def parse(data: bytes) -> Manifest:
    """Read a manifest that anybody may have written.

    Raises CorruptError with the place of the fault; a schema of another version is refused by its number.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{FILE_NAME} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{FILE_NAME} does not hold an object")
    if value.get("format") != FORMAT or value.get("schema") != SCHEMA:
        found = "format {!r}, schema {!r}".format(value.get("format"), value.get("schema"))
        raise CorruptError(f"{FILE_NAME} has {found}; this version reads format {FORMAT!r}, schema {SCHEMA}")
    try:
        manifest = decode(Manifest, _with_details(value))
        _check(manifest)
        # What cannot be told again would fail later, in the midst of a run.
        encode(manifest)
    except DecodingError as error:
        raise CorruptError(f"{FILE_NAME} is not valid: {error}") from error
    except RecursionError as error:
        raise CorruptError(f"{FILE_NAME} is not valid: its values are nested too deeply") from error
    return manifest


def _with_details(value: Dict[str, Any]) -> Dict[str, Any]:
    source = value.get("source")
    if not isinstance(source, dict):
        return value
    known = {field.name for field in dataclasses.fields(Origin)} - {"details"}
    details = {key: entry for key, entry in source.items() if key not in known}
    return {**value, "source": {**{key: source[key] for key in source if key in known}, "details": details}}


def _check(manifest: Manifest) -> None:
    """What the types alone do not say."""
    _check_compression(manifest.compression)
    for name in ("timestamp_start", "timestamp_copy_start", "timestamp_stop"):
        try:
            from_rfc3339(getattr(manifest, name))
        except ValueError:
            raise DecodingError(f"{name}: is not a time such as 2026-11-21T01:30:00.000Z") from None
    if manifest.encryption is not None:
        raise DecodingError("encryption: this version reads backups without encryption only")
    _check_references(manifest)
    if manifest.status != "complete" or not manifest.files:
        raise DecodingError("status: only complete backups with files can be read")
    for index, record in enumerate(manifest.files):
        _check_record(record, f"files[{index}]")
    for field in ("path", "repo_path"):
        if overlap([getattr(record, field) for record in manifest.files]):
            raise DecodingError(f"files: two have the same {field}, or one lies below another")


def _check_references(manifest: Manifest) -> None:
    kind, references = manifest.backup, manifest.backup.reference
    if kind.type not in (FULL, INCREMENT):
        raise DecodingError(f"backup.type: {kind.type!r} is not known")
    if (kind.type == FULL) != (not references) or kind.prior != (references[-1] if references else None):
        raise DecodingError("backup.reference: an increment has references, the last of them as prior; a full one none")
    known = {manifest.id, *references}
    if not all(map(is_id, references)) or len(known) <= len(references) or len(known) > LONGEST_CHAIN:
        raise DecodingError(f"backup.reference: is not a list of less than {LONGEST_CHAIN} ids of other backups")
    if kind.type == INCREMENT and manifest.source.position is None:
        raise DecodingError("source.position: is missing, of an increment")


def _check_compression(compression: Compression) -> None:
    if compression.type not in SUFFIXES:
        raise DecodingError(f"compression.type: {compression.type!r} is not known")


def _check_record(record: FileRecord, place: str) -> None:
    for field in ("path", "repo_path"):
        if not is_safe_relative(getattr(record, field)):
            raise DecodingError(f"{place}.{field}: {getattr(record, field)!r} is not a path below the backup")
    if record.repo_path in RESERVED_NAMES:
        raise DecodingError(f"{place}.repo_path: {record.repo_path!r} is taken")
    if record.content not in _CONTENTS:
        raise DecodingError(f"{place}.content: {record.content!r} is not known")
    if not _SHA256.fullmatch(record.sha256) or not _SHA256.fullmatch(record.repo_sha256):
        raise DecodingError(f"{place}: a SHA-256 is not 64 hexadecimal digits")
    if (
        record.size < 0
        or record.repo_size < 0
        or not 0 <= record.mode <= 0o7777
        or not is_owner(record.uid, record.gid)
    ):
        raise DecodingError(f"{place}: a size, mode, uid or gid is out of range")
