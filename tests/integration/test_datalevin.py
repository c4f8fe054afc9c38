# SPDX-License-Identifier: GPL-3.0-or-later
"""Datalevin, by its own library and opened by itself again; LMDB 1.0; and libraries that are none."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import lmdb_application as application
from ansible_collections.embedded.db_backup.tests.fixtures.datalevin_application import Writer
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import literal
from ansible_collections.embedded.db_backup.tests.tools import Command, eventually, snapshot

BACKUPS = 20
LIBRARY = f"datalevin/dtlvnative/linux-{'x86_64' if os.uname().machine == 'x86_64' else 'arm64'}/libdtlv.so"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_backup_of_a_busy_datalevin_opens_in_datalevin(
    busy_datalevin: Writer, jar: Path, dbbackup: Command, tmp_path: Path
) -> None:
    writer, path = busy_datalevin, busy_datalevin.path
    lock = os.stat(path / "lock.mdb")
    for compact in (True, False):
        dbbackup.job(f"compact-{compact}".lower(), path, library=str(jar), compact=compact)
    for number in range(BACKUPS):
        job, restored = f"compact-{bool(number % 2)}".lower(), tmp_path / f"restored-{number}"
        acknowledged = writer.acknowledged()
        backup = dbbackup.ok("run", job)["backup"]
        assert backup["check"]["opened"]
        assert "DLMDB" in backup["backup"]["copied_by"]
        (environment,) = backup["source"]["environments"]
        names = {entry["name"] for entry in environment["databases"]}
        assert {None, "datalevin/eav", "datalevin/ave", "datalevin/schema"} <= names
        dbbackup.ok("restore", job, "--dest", restored)
        assert (restored / "VERSION").read_bytes() == (path / "VERSION").read_bytes()
        assert writer.judge(restored) >= acknowledged
        shutil.rmtree(restored)
    now = os.stat(path / "lock.mdb")
    assert (now.st_ino, now.st_uid, now.st_mode) == (lock.st_ino, lock.st_uid, lock.st_mode)
    writer.goes_on()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_backup_of_a_busy_lmdb_1_restores_consistent(dbbackup: Command, tmp_path: Path) -> None:
    path = tmp_path / "environment"
    # Looked at when py-lmdb is imported; it tells what new environments are.
    env = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
    seed = [sys.executable, str(Path(application.__file__)), "seed", str(path), "--megabytes", "12"]
    subprocess.run(seed, env=env, check=True)
    assert (path / "data.mdb").read_bytes()[24:32] == bytes.fromhex("dec0efbe03000000")
    for compact in (True, False):
        dbbackup.job(f"compact-{compact}".lower(), path, compact=compact)
    with application.Writer(path, tmp_path / "ledger") as writer:
        for number in range(BACKUPS):
            job, restored = f"compact-{bool(number % 2)}".lower(), tmp_path / f"restored-{number}"
            acknowledged = writer.acknowledged()
            backup = dbbackup.ok("run", job)["backup"]
            dbbackup.ok("restore", job, "--dest", restored)
            judgement = application.judge(restored, at_least=acknowledged)
            assert judgement.good, f"backup {number}: {judgement.sentence}"
            assert "(LMDB 1.0." in backup["backup"]["copied_by"]
            (environment,) = backup["source"]["environments"]
            counts = {entry["name"]: entry["entries"] for entry in environment["databases"]}
            assert counts == {None: 5, **{name: found.entries for name, found in judgement.databases.items()}}
            shutil.rmtree(restored)
        acknowledged = writer.acknowledged()
        eventually(lambda: writer.acknowledged() > acknowledged, "the application goes on after the last backup")


@pytest.fixture
def idle(datalevin: Server, tmp_path: Path) -> Path:
    """A closed database of Datalevin."""
    path = tmp_path / "idle"
    datalevin.evaluate(
        "(do (require '[datalevin.core :as d])"
        f" (let [conn (d/create-conn {literal(path)})] (d/transact! conn [{{:x 1}}]) (d/close conn)) nil)"
    )
    return path


@pytest.mark.parametrize("method", ["auto", "hot", "freeze"])
def test_without_a_library_datalevin_is_refused_with_what_to_do(idle: Path, dbbackup: Command, method: str) -> None:
    dbbackup.job("kg", idle, method=method)
    before = snapshot(idle)
    assert "name its library, as the jar of Datalevin, by the option library" in dbbackup.fails(1, "run", "kg")
    assert snapshot(idle) == before


@pytest.mark.parametrize("form", ["shared object", "uberjar", "wheel"])
def test_a_library_is_taken_from_where_it_is(
    form: str, idle: Path, jar: Path, dbbackup: Command, tmp_path: Path
) -> None:
    library = (
        tmp_path / "library" / {"shared object": "libdtlv.so", "uberjar": "app.jar", "wheel": "datalevin.whl"}[form]
    )
    library.parent.mkdir(mode=0o700)
    with zipfile.ZipFile(jar) as archive:
        files = {name: archive.read(LIBRARY.replace("libdtlv.so", name)) for name in ("libdtlv.so", "libgomp.so")}
    if form == "shared object":
        for name, content in files.items():
            (library.parent / name).write_bytes(content)
    elif form == "uberjar":
        with zipfile.ZipFile(library, "w") as archive:
            archive.writestr("../../../escaped", b"no")
            for name, content in files.items():
                archive.writestr(LIBRARY.replace("libdtlv.so", name), content)
    else:
        with zipfile.ZipFile(library, "w") as archive:
            archive.write(jar, f"datalevin/jars/{jar.name}")
    dbbackup.job("kg", idle, library=str(library))
    before = (idle / "data.mdb").read_bytes()
    assert dbbackup.ok("run", "kg")["backup"]["check"]["opened"]
    assert (idle / "data.mdb").read_bytes() == before
    assert not (tmp_path / "escaped").exists()


def compiled(path: Path, code: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("needs a compiler: apt-get install gcc")
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=code.encode(), check=True)


def not_elf(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" * 100)


def other_machine(path: Path) -> None:
    content = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
    content[18:20] = (40).to_bytes(2, "little")
    path.write_bytes(content)


def half(path: Path) -> None:
    compiled(path, "int mdb_env_create(void) { return 0; }")
    path.write_bytes(path.read_bytes()[:5000])


def empty_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../libdtlv.so", b"\x7fELF")


def cut_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(LIBRARY, os.urandom(10_000))
    path.write_bytes(path.read_bytes()[:9_000])


def damaged_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(LIBRARY, b"\x7fELF" + bytes(1000))
    path.write_bytes(path.read_bytes().replace(b"\x7fELF", b"\x7fElF"))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(LIBRARY, "w") as entry:
        for _unused in range(257):
            entry.write(bytes(1 << 20))


def writable(path: Path) -> None:
    compiled(path, "int x;")
    path.chmod(0o666)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda _path: None, "No such file"),
    "a directory": (lambda path: path.mkdir(), "is not a file"),
    "a pipe": (os.mkfifo, "is not a file"),
    "no ELF": (not_elf, "neither an ELF file nor a jar"),
    "empty": (lambda path: path.write_bytes(b""), "neither an ELF file nor a jar"),
    "another machine": (other_machine, "built for another machine"),
    "half a library": (half, "library.so"),
    "no LMDB": (lambda path: compiled(path, "int x;"), "is not one of LMDB: it has no mdb_env_create"),
    "a zip of others": (empty_zip, "is an archive without datalevin/dtlvnative"),
    "a cut zip": (cut_zip, "cannot be taken out of this archive"),
    "a damaged entry": (damaged_zip, "cannot be taken out of this archive"),
    "a bomb": (bomb, "too large"),
    "writable by others": (writable, "others can write to"),
    "crashes": (lambda path: compiled(path, "__attribute__((constructor)) void f(void) { *(int *)0 = 1; }"), "SIGSEGV"),
    "hangs": (
        lambda path: compiled(
            path, "#include <unistd.h>\n__attribute__((constructor)) void f(void) { for (;;) pause(); }"
        ),
        "gave no sign of life for 2 seconds",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_library_is_refused_in_one_sentence_while_the_application_writes(
    kind: str, busy_datalevin: Writer, dbbackup: Command, tmp_path: Path
) -> None:
    spoil, sentence = HOSTILE[kind]
    spoil(tmp_path / "library.so")
    dbbackup.job("kg", busy_datalevin.path, library=str(tmp_path / "library.so"), timeout=2)
    with busy_datalevin.going_on():
        told = dbbackup.fails(1, "run", "kg")
    assert sentence in told
    assert "Traceback" not in told
    assert not list(dbbackup.repository.glob("kg/2*"))


@pytest.mark.parametrize("kind", ["no LMDB", "crashes", "hangs"])
def test_a_library_that_is_none_changes_nothing_once_it_is_loaded(
    kind: str, idle: Path, dbbackup: Command, tmp_path: Path
) -> None:
    spoil, _sentence = HOSTILE[kind]
    spoil(tmp_path / "library.so")
    dbbackup.job("kg", idle, library=str(tmp_path / "library.so"), timeout=2)
    before = snapshot(idle)
    dbbackup.fails(1, "run", "kg")
    assert snapshot(idle) == before


def test_a_manifest_never_makes_verify_load_a_library(idle: Path, jar: Path, dbbackup: Command) -> None:
    job = dbbackup.job("kg", idle, library=str(jar))
    dbbackup.ok("run", "kg")
    assert dbbackup.ok("verify", "kg")["opened"]
    job.unlink()
    assert not dbbackup.ok("verify", "kg")["opened"]


@pytest.mark.root
def test_as_the_owner_of_the_data_and_its_lock_file(idle: Path, jar: Path, dbbackup: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for path in (idle, *idle.iterdir()):
        os.chown(path, 4711, 4711)
        path.chmod(0o700 if path.is_dir() else 0o600)
    (idle / "lock.mdb").unlink()
    dbbackup.job("kg", idle, library=str(jar))
    dbbackup.ok("run", "kg")
    assert not (idle / "lock.mdb").exists()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_uid == 4711 for path in idle.iterdir())


def test_a_restore_puts_the_log_of_later_transactions_aside(idle: Path, jar: Path, dbbackup: Command) -> None:
    dbbackup.job("kg", idle, library=str(jar))
    dbbackup.ok("run", "kg")
    (idle / "txlog").mkdir()
    (idle / "txlog/segment-0000000000000001.wal").write_bytes(b"later")
    (idle / "keycode.bin").write_bytes(b"later")
    dbbackup.ok("restore", "kg", "--force")
    assert not (idle / "txlog").exists()
    assert not (idle / "keycode.bin").exists()
    assert list(idle.glob("txlog.before-restore-*/*.wal"))
