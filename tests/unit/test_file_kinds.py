# SPDX-License-Identifier: GPL-3.0-or-later
"""What single files are, whether they are whole, and when they were made."""

from __future__ import annotations

import datetime
import gzip
import io
import os
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import CorruptError, SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.processes import Report
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import Origin
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources import edn
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.base import Tools
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.file import kinds
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.file.findings import Findings
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.file.moments import moment_of
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.file.source import FileSource
from ansible_collections.embedded.db_backup.tests.tools import make_environment
from hypothesis import given
from hypothesis import strategies as st

CHROMA = ("collections", "segments", "embeddings", "embeddings_queue")
UTC = datetime.UTC


def checked(kind: str, content: bytes, folder: Path) -> Findings:
    """What the check of the kind tells of a file, in a child process as always."""
    path = folder / "a ?file#%41"
    path.write_bytes(content)
    path.chmod(0o600)
    origin = FileSource.check({path.name: path}, Origin(str(path), len(content), details={"kind": kind}), Tools())
    return Findings(origin.details["verified"], origin.details["not_verified"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "head", "kind"),
        [
            ("chroma-20261121-0130.sqlite3", b"anything", "sqlite3"),
            ("DATALEVIN.TGZ", b"anything", "tar.gz"),
            ("datalevin-20261121-0130.tar.gz", b"", "tar.gz"),
            ("datahike-20261121T013000.edn", b"SQLite format 3\0", "edn"),
            ("backup", b"SQLite format 3\0", "sqlite3"),
            ("backup.gz", gzip.compress(b"no tar" * 100, mtime=0), "other"),
            ("backup.gz", b"\x1f\x8b", "other"),
            ("backup", b"{:a 1}", "other"),
        ],
    )
    def test_name_first_then_content(self, name: str, head: bytes, kind: str) -> None:
        assert kinds.kind_of(name, head) == kind

    def test_tar_without_a_telling_name(self) -> None:
        assert kinds.kind_of("backup", packed({"data.mdb": b"x" * 10_000})[: kinds.HEAD]) == "tar.gz"

    def test_unknown_kind_in_a_manifest(self) -> None:
        with pytest.raises(CorruptError, match="'exe' is not known"):
            FileSource.trees(Origin("/srv/backup.exe", 1, details={"kind": "exe"}))

    def test_nothing_is_claimed_of_other_files(self, folder: Path) -> None:
        assert checked("other", b"whatever", folder).verified == []


class TestMoments:
    MTIME = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    @pytest.fixture(autouse=True)
    def timezone(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Europe/Berlin")
            time.tzset()
            yield
        time.tzset()

    @pytest.mark.parametrize(
        ("name", "expected", "told_by"),
        [
            ("datahike.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-20261121T013000.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-20261120T013000.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-20261122T235959.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-20261119T013000.edn", "2026-11-19T00:30:00", "name"),
            ("datalevin-20260701-0130.tar.gz", "2026-06-30T23:30:00", "name"),
            ("chroma-2026-07-01.sqlite3", "2026-06-30T22:00:00", "name"),
            ("chroma_2026_07_01_01_30_15.sqlite3", "2026-06-30T23:30:15", "name"),
            ("20260701013015.sqlite3", "2026-06-30T23:30:15", "name"),
            ("datahike-20260701T013000Z.edn", "2026-07-01T01:30:00", "name"),
            ("datahike-20260701-9999.edn", "2026-06-30T22:00:00", "name"),
            ("datahike-20269901-20260701.edn", "2026-06-30T22:00:00", "name"),
            ("datahike-20260230.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-120260701.edn", "2026-11-21T12:00:00", "mtime"),
            ("datahike-12340506.edn", "2026-11-21T12:00:00", "mtime"),
            # In the hour that a summer night in Berlin does not have, and in the one that a winter night has twice.
            ("datahike-20260329T023000.edn", "2026-03-29T00:30:00", "name"),
            ("datahike-20261025T023000.edn", "2026-10-25T00:30:00", "name"),
        ],
    )
    def test_name_counts_where_the_day_is_another(self, name: str, expected: str, told_by: str) -> None:
        moment = moment_of(name, int(self.MTIME.timestamp() * 10**9))
        assert (moment.time.isoformat(), moment.told_by) == (expected + "+00:00", told_by)
        assert moment.time.tzinfo is UTC

    @pytest.mark.parametrize("mtime_ns", [-1, -(10**30), 10**30, 253_402_300_800 * 10**9])
    def test_impossible_time(self, mtime_ns: int) -> None:
        with pytest.raises(SourceError, match=r"x\.edn has a time of modification"):
            moment_of("x.edn", mtime_ns)

    @given(st.text(max_size=40), st.integers(0, 9_000_000_000 * 10**9))
    def test_any_name_and_time(self, name: str, mtime_ns: int) -> None:
        assert 1969 <= moment_of(name, mtime_ns).time.year < 3001


class TestSqlite:
    def database(self, folder: Path, *tables: str, wal: bool = False) -> bytes:
        path = folder / "made.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            if wal:
                connection.execute("PRAGMA journal_mode=WAL")
            for table in ("notes", *tables):
                connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text)")
                rows = [(f"text {number}" * 9,) for number in range(500)]
                connection.executemany(f"INSERT INTO {table} (text) VALUES (?)", rows)
            connection.execute("CREATE INDEX by_text ON notes (text)")
            connection.commit()
        return path.read_bytes()

    def test_sound(self, folder: Path) -> None:
        found = checked("sqlite3", self.database(folder), folder)
        assert found.verified == ["SQLite's integrity_check reads all of it and finds no fault"]
        assert [sentence.split(":")[0] for sentence in found.not_verified] == [
            "whether a transaction was under way while it was copied",
            "whether files that belong to it are missing",
        ]

    def test_chroma_without_its_segments(self, folder: Path) -> None:
        found = checked("sqlite3", self.database(folder, *CHROMA), folder)
        assert found.not_verified[-1].startswith("the vectors: Chroma keeps most or all of them in segment directories")

    def test_write_ahead_log_is_missed(self, folder: Path) -> None:
        found = checked("sqlite3", self.database(folder, wal=True), folder)
        assert "write-ahead log" in found.not_verified[1]
        assert sorted(path.name for path in folder.iterdir()) == ["a ?file#%41", "made.sqlite3"]

    def test_cut(self, folder: Path) -> None:
        content = self.database(folder)
        with pytest.raises(CorruptError, match="SQLite"):
            checked("sqlite3", content[: len(content) // 2], folder)

    def test_torn(self, folder: Path) -> None:
        content = self.database(folder)
        with pytest.raises(CorruptError, match="SQLite"):
            checked("sqlite3", content[: 4096 * 6] + os.urandom(4096) + content[4096 * 7 :], folder)

    def test_index_that_does_not_fit(self, folder: Path) -> None:
        content = self.database(folder)
        place = content.rindex(b"text 1text 1")
        with pytest.raises(CorruptError, match="SQLite finds it damaged: row 2 missing"):
            checked("sqlite3", content[:place] + b"fext" + content[place + 4 :], folder)

    @pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(200), bytes(9000)])
    def test_no_database(self, content: bytes, folder: Path) -> None:
        with pytest.raises(CorruptError):
            checked("sqlite3", content, folder)


def packed(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar.gz with these files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.type = len(content), kind
            archive.addfile(header, io.BytesIO(content))
    return target.getvalue()


class TestArchive:
    @pytest.fixture
    def data(self, tmp_path: Path) -> bytes:
        make_environment(tmp_path / "kg")
        return (tmp_path / "kg/data.mdb").read_bytes()

    def test_sound(self, data: bytes, folder: Path) -> None:
        found = checked("tar.gz", packed({"kg/data.mdb": data, "kg/lock.mdb": b"x" * 8192}), folder)
        assert found.verified[-1] == "'kg/data.mdb' is as long as its header tells"
        assert len(found.not_verified) == 1

    def test_data_version_of_datalevin(self, data: bytes, folder: Path) -> None:
        """DLMDB writes version 2 into both meta pages, and has the layout of LMDB 0.9."""
        page = int.from_bytes(data[40:44], "little")
        changed = bytearray(data)
        for place in (20, page + 20):
            changed[place : place + 4] = (2).to_bytes(4, "little")
        checked("tar.gz", packed({"kg/data.mdb": bytes(changed)}), folder)

    @pytest.mark.parametrize("keep", [10, 0.5, 0.99, -9, -1])
    def test_cut(self, keep: float, data: bytes, folder: Path) -> None:
        whole = packed({"kg/data.mdb": data, "kg/lock.mdb": os.urandom(8192)})
        cut = int(len(whole) * keep) if isinstance(keep, float) else keep
        with pytest.raises(CorruptError, match="its gzip is damaged"):
            checked("tar.gz", whole[:cut], folder)

    @pytest.mark.parametrize("place", [-4096, -6])
    def test_flipped_bit(self, place: int, data: bytes, folder: Path) -> None:
        """In the bytes that do not compress, and in the checksum; elsewhere there are bits that mean nothing."""
        whole = bytearray(packed({"kg/data.mdb": data, "kg/lock.mdb": os.urandom(8192)}))
        whole[place] ^= 1
        with pytest.raises(CorruptError, match="damaged"):
            checked("tar.gz", bytes(whole), folder)

    def test_checksum_counts_far_behind_the_end_of_the_tar(self, data: bytes, folder: Path) -> None:
        whole = bytearray(gzip.compress(gzip.decompress(packed({"kg/data.mdb": data})) + bytes(1 << 20)))
        checked("tar.gz", bytes(whole), folder)
        whole[-6] ^= 1
        with pytest.raises(CorruptError, match="its gzip is damaged: CRC check failed"):
            checked("tar.gz", bytes(whole), folder)

    @pytest.mark.parametrize(
        ("cut", "fault"),
        [
            (512, "ends before the mark"),
            (700, "ends before the mark"),
            (1024, "unexpected end of data"),
            (9000, "unexpected end of data"),
            (1024 + 8192, "ends before the mark"),
        ],
    )
    def test_tar_cut_before_it_was_packed(self, cut: int, fault: str, data: bytes, folder: Path) -> None:
        tar = gzip.decompress(packed({"kg/data.mdb": data, "kg/lock.mdb": b"x" * 8192}))
        with pytest.raises(CorruptError, match=fault):
            checked("tar.gz", gzip.compress(tar[: len(data) + cut]), folder)

    def test_damaged_header_is_not_taken_for_the_end(self, data: bytes, folder: Path) -> None:
        tar = bytearray(gzip.decompress(packed({"kg/data.mdb": data, "kg/lock.mdb": b"x" * 8192})))
        place = tar.index(b"kg/lock.mdb")
        tar[place] ^= 1
        with pytest.raises(CorruptError, match="its tar is damaged: bad checksum"):
            checked("tar.gz", gzip.compress(bytes(tar)), folder)

    def test_environment_shorter_than_its_header_tells(self, data: bytes, folder: Path) -> None:
        with pytest.raises(CorruptError, match=r"'kg/data.mdb' in it has \d+ bytes, its header tells \d+"):
            checked("tar.gz", packed({"kg/data.mdb": data[:-4096]}), folder)

    def test_one_meta_page_is_gone(self, data: bytes, folder: Path) -> None:
        page = int.from_bytes(data[40:44], "little")
        with pytest.raises(CorruptError, match="does not begin as an LMDB environment does"):
            checked("tar.gz", packed({"data.mdb": data[:page] + bytes(page) + data[2 * page :]}), folder)

    @pytest.mark.parametrize("content", [b"", b"x" * 9000])
    def test_no_environment(self, content: bytes, folder: Path) -> None:
        with pytest.raises(CorruptError, match="does not begin"):
            checked("tar.gz", packed({"data.mdb": content}), folder)
        with pytest.raises(CorruptError, match=r"holds no data\.mdb"):
            checked("tar.gz", packed({"else": content}), folder)

    def test_link_is_no_environment(self, folder: Path) -> None:
        with pytest.raises(CorruptError, match=r"holds no data\.mdb"):
            checked("tar.gz", packed({"data.mdb": b""}, kind=tarfile.SYMTYPE), folder)

    def test_hostile_names_unpack_nowhere(self, data: bytes, folder: Path) -> None:
        checked("tar.gz", packed({"../../data.mdb": data, "/data.mdb\n": data, "x/../../data.mdb": data}), folder)
        assert not (folder.parent / "data.mdb").exists()

    def test_names_that_fill_the_memory(self, folder: Path) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
        target = io.BytesIO()
        with gzip.open(target, "wb", 1) as stream:
            stream.write(header.tobuf(tarfile.GNU_FORMAT))
            for _unused in range(400):
                stream.write(bytes(1 << 20))
        with pytest.raises(CorruptError, match="names of a size"):
            checked("tar.gz", target.getvalue(), folder)


# Words in which brackets and quotes mean nothing, and such as are near to what is refused.
HIDING = ['"a ( \\" ; b"', '""', "\\(", "\\\\", '\\"', "\\;", "; ) ]\n", '"' + "\\n" * 60 + '("', '#"[(]"', "\\u0041"]
WORDS = ["1", "nil", ":a.b/c...", "..", "....", "a...", "foo#", "#inst", "##NaN", "#_", "#:a", "äß😀", ","]
FORMS = st.recursive(
    st.sampled_from(HIDING + WORDS),
    lambda inner: st.tuples(st.sampled_from(["()", "[]", "{}", ("#{", "}")]), st.lists(inner, max_size=4)).map(
        lambda form: form[0][0] + " ".join(form[1]) + form[0][1]
    ),
    max_leaves=20,
)


class TestEdn:
    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            "{:a [1 2 3] :b #{\\) \\newline}} ; ( comment without an end",
            '(1) "after ["',
            "[1 :datahike/DB]",
            "#datahike/DB {:schema {} :datoms [[1 :a 2]]}",
            "[:... ...a a... .... .. #... x#]",
            "[\\# \\. \\... \\,]",
            "[" * 10_000 + "]" * 10_000,
            "[" + '"' + '\\n\\"' * 500 + '"' + "]",
        ],
    )
    def test_sound(self, text: str, folder: Path) -> None:
        assert len(checked("edn", text.encode(), folder).not_verified) == 1

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            (b"", "it is empty"),
            (b" \n ; nothing (\n", "holds no collection"),
            (b'"EXPORT-OK"', "holds no collection"),
            (b"nil", "holds no collection"),
            (b"[1 2", "ends with 1 open brackets"),
            (b"{:a [1 2 {", "ends with 3 open brackets"),
            (b"[1 2))", r"its \) at byte 4 closes what is not open"),
            (b"[1 2]]", r"its \] at byte 5 closes what is not open"),
            (b'[1 "two', "ends inside of the string that begins at byte 3"),
            (b'["' + b"\\n" * 99 + b'\\"', "ends inside of the string that begins at byte 1"),
            (b"[1] \\", "ends inside of a character"),
            (b"[1 ; ]", "ends with 1 open brackets"),
            (b"[1 \\]", "ends with 1 open brackets"),
            (b"[1 #object[datalevin.db.DB 0x1 1]]", "an object that nothing can read back, at byte 3"),
            (b"[#<Namespace user>]", "an object that nothing can read back"),
            (b"[0 1 2 ...]", "left something out, at byte 7"),
            (b"{:a 1, ...}", "left something out"),
            (b"[1]\n...", "left something out"),
            (b"{:a #}", "left something out"),
            (b"[[1 #] 2]", "left something out"),
            (b"#datahike/DB {:max-tx 536870913 :max-eid 3}", "a printed database without its datoms"),
            (b"[\xff]", "not UTF-8"),
            (b"[\xed\xa0\x80]", "not UTF-8"),
            ("[ä".encode()[:-1], "not UTF-8"),
            (b"[1]" + bytes(4096), "a zero byte at 3"),
            (b"[" * (1 << 20) + b"[", "nested deeper"),
        ],
    )
    def test_fault(self, text: bytes, fault: str, folder: Path) -> None:
        with pytest.raises(CorruptError, match=fault):
            checked("edn", text, folder)

    @given(forms=st.lists(FORMS, max_size=6), data=st.data())
    def test_whole_forms_pass_and_no_cut_one_does(
        self, forms: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("edn") / "export.edn"
        text = ("[" + " ".join(forms) + " ]").encode()
        assert self.fault_of(text, path) is None
        # Of one form there is no shorter whole beginning.
        cut = data.draw(st.integers(0, len(text) - 1))
        assert self.fault_of(text[:cut], path)

    @given(content=st.binary(max_size=200))
    def test_anything_ends_in_a_sentence(self, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.fault_of(content, tmp_path_factory.mktemp("edn") / "export.edn")

    @staticmethod
    def fault_of(content: bytes, path: Path) -> str | None:
        path.write_bytes(content)
        with open(os.devnull, "wb") as nowhere:
            try:
                edn.scan(Report(nowhere.fileno(), nowhere.fileno()), path)
            except CorruptError as error:
                return str(error)
        return None
