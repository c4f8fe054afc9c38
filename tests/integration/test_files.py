# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of any application: copied as of one moment under a live writer, and restored to the last bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.verify import verify
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.repository import Repository
from ansible_collections.embedded.db_backup.tests.containers import Containers, engine
from ansible_collections.embedded.db_backup.tests.saboteur import Saboteur
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    eventually,
    give_away,
    make_reachable,
    process,
    snapshot,
)
from ansible_collections.embedded.db_backup.tests.volumes import volume

# Appends a record to its log, then to its index, then renames a new head into place: so the log is never behind the
# index, and never more than one record ahead; the same with index and head.
WRITER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
place, pause, is_durable = sys.argv[1], float(sys.argv[2]), "durable" in sys.argv
log = open(os.path.join(place, "log"), "ab", buffering=0)
index = open(os.path.join(place, "index"), "ab", buffering=0)
number = 0
while True:
    number += 1
    log.write(b"%012d " % number + b"x" * 499 + b"\\n")
    if is_durable:
        os.fsync(log.fileno())
    index.write(b"%07d\\n" % number)
    if is_durable:
        os.fsync(index.fileno())
    with open(os.path.join(place, "head.new"), "w") as head:
        head.write(str(number))
        if is_durable:
            head.flush()
            os.fsync(head.fileno())
    os.rename(os.path.join(place, "head.new"), os.path.join(place, "head"))
    time.sleep(pause)
"""
LOG, INDEX = 513, 8
NAMES = (b"plain", b"new\nline", b"not utf-8 \xff\xfe", "gr\u00fcn".encode(), b"-rf", b" blank ", b"x" * 255, b"a%3D=b")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """All that a directory can have."""
    top = tmp_path / "tree"
    deep = top / "deep" / ("er" * 60) / ("est" * 50)
    for place in (top, deep):
        place.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(NAMES):
            file = Path(os.fsdecode(os.path.join(os.fsencode(place), name)))
            file.write_bytes(os.urandom(number * 40_000))
            file.chmod((0o644, 0o600, 0o755, 0o400)[number % 4])
            os.utime(file, ns=(10**18 + number, -(10**17) + number if number == 3 else 10**18 + number))
    (top / "empty").mkdir(mode=0o1777)
    (top / "empty").chmod(0o1777)
    (top / "deep").chmod(0o2750)
    os.link(top / "plain", deep / "again")
    os.link(top / "plain", top / "zz")
    (top / "link").symlink_to("deep/" + "er" * 60)
    (top / "broken").symlink_to("/no/such/" + "place/" * 30)
    with (top / "holes").open("wb") as file:
        file.truncate(10 << 30)
        os.pwrite(file.fileno(), b"begin", 0)
        os.pwrite(file.fileno(), b"middle" * 1000, 5 << 30)
    with (top / "all hole").open("wb") as file:
        file.truncate(1 << 20)
    os.setxattr(top / "plain", "user.note", bytes(range(256)))
    os.setxattr(top / "deep", "user.eq=%3D", b"a=b")
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:4321:r", top / "zz"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", top / "deep"], check=True)
    if os.geteuid() == 0:
        os.chown(top / "deep", 1234, 4321)
        os.chown(deep / "plain", (1 << 32) - 2, 3_000_000)
        os.chown(top / "link", 1234, 4321, follow_symlinks=False)
    return top


def appearance(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything that can be seen of a tree, but when it was looked at and where it lies."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[int, bytes] = {}
    root = os.fsencode(top)
    for directory, names, files in os.walk(root):
        for name in [b".", *names, *files] if directory == root else [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            known = os.path.relpath(path, root)
            mode, content, attributes = status.st_mode, b"", {}
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            else:
                attributes = {
                    key: os.getxattr(path, key) for key in os.listxattr(path) if not key.startswith("trusted.")
                }
            if stat.S_ISREG(mode) and status.st_size < 1 << 30:
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    content = os.pread(file.fileno(), 100_000, 0) + os.pread(file.fileno(), 100_000, 5 << 30)
            linked = first.setdefault(status.st_ino, known) if status.st_nlink > 1 and stat.S_ISREG(mode) else b""
            size = status.st_size if not stat.S_ISDIR(mode) else None
            same = status.st_blocks * 512 < 1 << 20 if status.st_size > 1 << 30 else None
            found[known] = (mode, status.st_uid, status.st_gid, status.st_mtime_ns, size, content, attributes, same)
            found[known] += (linked if linked else None,)
    # Which of its names is met first is up to the file system.
    groups = {name: sorted(key for key, one in found.items() if one[-1] == name) for name in set(first.values())}
    return {key: (*one[:-1], groups.get(one[-1])) for key, one in found.items()}


def differences(found: dict[bytes, tuple[Any, ...]], wanted: dict[bytes, tuple[Any, ...]]) -> list[Any]:
    """Short enough to be read."""
    told: list[Any] = sorted(found.keys() ^ wanted.keys())
    for name in sorted(found.keys() & wanted.keys()):
        pairs = zip(found[name], wanted[name], strict=True)
        told += [(name[-20:], number, one, other) for number, (one, other) in enumerate(pairs) if one != other]
    return [str(one)[:600] for one in told]


def by_hand(dbbackup: Command, name: str, dest: Path) -> None:
    """Run the commands that the manifest tells."""
    (manifest,) = (dbbackup.repository / name).glob("[0-9]*/manifest.json")
    commands = json.loads(manifest.read_text())["restore_by_hand"]
    dest.mkdir()
    script = " && ".join(commands).replace("DESTINATION", str(dest))
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("setfacl"), reason="setfacl is missing: apt-get install acl")
class TestEverything:
    @pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}], ids=["utf-8", "C"])
    def test_comes_back(self, dbbackup: Command, tree: Path, tmp_path: Path, locale: dict[str, str]) -> None:
        dbbackup.env = locale
        before, wanted = snapshot_of_names(tree), appearance(tree)
        dbbackup.job("tree", tree, type="files")
        backup = dbbackup.ok("run", "tree")["backup"]
        assert (backup["backup"]["method"], backup["check"]["opened"]) == ("optimistic", True)
        assert backup["source"]["listing"]["names"] == 2
        assert backup["summary"]["size"] < 4 << 20
        assert snapshot_of_names(tree) == before
        assert dbbackup.ok("verify", "tree")["opened"]
        assert "access lists compared" in " ".join(dbbackup.ok("drill", "tree")["proven"])
        dest = tmp_path / "restored"
        assert dbbackup.ok("restore", "tree", "--dest", dest)["files"] == [str(dest)]
        assert differences(appearance(dest), wanted) == []
        assert not dbbackup.ok("restore", "tree", "--dest", dest)["changed"]
        by_hand(dbbackup, "tree", tmp_path / "by-hand")
        assert differences(appearance(tmp_path / "by-hand"), wanted) == []

    @pytest.mark.parametrize("kind", ["xfs", "btrfs"])
    def test_of_a_snapshot(self, kind: str, dbbackup: Command, tree: Path, tmp_path: Path) -> None:
        """And back on another file system."""
        with volume(kind, tmp_path) as point:
            subprocess.run(["cp", "-a", "--sparse=always", tree, point / "data"], check=True)
            wanted = appearance(point / "data")
            dbbackup.repository = point / "repository"
            dbbackup.job("tree", point / "data", type="files")
            backup = dbbackup.ok("run", "tree")["backup"]["backup"]
            assert (backup["method"], backup["copied_by"]) == ("snapshot", "reflink")
            dbbackup.ok("restore", "tree", "--dest", tmp_path / "restored")
        assert differences(appearance(tmp_path / "restored"), wanted) == []

    def test_frozen(self, dbbackup: Command, tree: Path, tmp_path: Path) -> None:
        wanted = appearance(tree)
        dbbackup.job("tree", tree, type="files", method="freeze")
        with in_use(tree / "plain"):
            done = dbbackup.ok("run", "tree")
        assert done["backup"]["source"]["paused_ms"] is not None
        dbbackup.ok("restore", "tree", "--dest", tmp_path / "restored")
        assert differences(appearance(tmp_path / "restored"), wanted) == []


@contextmanager
def in_use(file: Path) -> Iterator[None]:
    """A process has it open."""
    with process(["sh", "-c", 'exec sleep 600 < "$1"', "sh", str(file)]) as running:
        seen = Path(f"/proc/{running.pid}/fd/0")
        eventually(lambda: os.path.realpath(seen) == str(file), "it has it open")
        yield


def snapshot_of_names(top: Path) -> list[tuple[Any, ...]]:
    """That nothing changed in a source, without reading ten gigabytes of zeros."""
    found = []
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in [b".", *names, *files]:
            status = os.lstat(os.path.join(directory, name))
            found.append((name, status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns))
    return found


class Judgement:
    """What a copy of the application's directory holds."""

    def __init__(self, place: Path) -> None:
        log = (place / "log").read_bytes()
        self.log, self.torn = divmod(len(log), LOG)
        self.index = (place / "index").stat().st_size // INDEX
        head = place / "head"
        self.head = int(head.read_text()) if head.exists() else 0
        records = [int(log[start : start + 12]) for start in range(0, self.log * LOG, LOG)]
        self.is_sound = records == list(range(1, self.log + 1)) and not self.torn

    @property
    def is_of_one_moment(self) -> bool:
        return self.is_sound and self.log - 1 <= self.index <= self.log and self.index - 1 <= self.head <= self.index


@contextmanager
def writer(place: Path, pause: float = 0.0, *options: str) -> Iterator[Path]:
    """An application that is at work. With durable, everything is on the disk before the next is written."""
    place.mkdir()
    # Something to copy between the files that are written to, so that a copy takes a while.
    for number in range(20):
        (place / f"i-{number:02}").write_bytes(os.urandom(200_000))
    with process([sys.executable, "-c", WRITER, str(place), str(pause), *options]):
        eventually((place / "head").exists, "the application works")
        yield place


def goes_on(place: Path) -> None:
    before = (place / "index").stat().st_size
    eventually(lambda: (place / "index").stat().st_size > before, "the application goes on")


class TestLive:
    def test_frozen(self, dbbackup: Command, tmp_path: Path) -> None:
        with writer(tmp_path / "state") as place:
            dbbackup.job("state", place, type="files", freeze_timeout=20)
            for number in range(5):
                acknowledged = (place / "index").stat().st_size // INDEX
                done = dbbackup.ok("run", "state")
                assert done["backup"]["backup"]["method"] == "freeze"
                assert done["backup"]["source"]["paused_ms"] is not None
                assert any("so the application was frozen" in warning for warning in done["warnings"])
                dest = tmp_path / f"restored-{number}"
                dbbackup.ok("restore", "state", "--dest", dest)
                judged = Judgement(dest)
                assert judged.is_of_one_moment, vars(judged)
                assert judged.index >= acknowledged
                goes_on(place)

    def test_a_busy_one_is_not_copied_without_leave(self, dbbackup: Command, tmp_path: Path) -> None:
        with writer(tmp_path / "state") as place:
            dbbackup.job("state", place, type="files")
            told = dbbackup.fails(1, "run", "state")
            assert "in each of 4 tries; use method freeze" in told
            assert dbbackup.backups("state") == []
            assert {entry.name for entry in (dbbackup.repository / "state").iterdir()} <= {".lock", "state.json"}
            goes_on(place)

    def test_one_that_pauses_is_copied_without_harm(self, dbbackup: Command, tmp_path: Path) -> None:
        """Tried again until nothing was written meanwhile."""
        with writer(tmp_path / "state", pause=3) as place:
            dbbackup.job("state", place, type="files", method="optimistic")
            dbbackup.ok("run", "state")
            dbbackup.ok("restore", "state", "--dest", tmp_path / "restored")
            assert Judgement(tmp_path / "restored").is_of_one_moment
            goes_on(place)

    def test_snapshots(self, dbbackup: Command, tmp_path: Path) -> None:
        """Too busy for reflinks of single files, so it is one of btrfs, which has what was made durable."""
        with volume("btrfs", tmp_path) as point, writer(point / "state", 0, "durable") as place:
            dbbackup.job("state", place, type="files")
            for number in range(5):
                acknowledged = (place / "index").stat().st_size // INDEX
                done = dbbackup.ok("run", "state")["backup"]["backup"]
                assert (done["method"], done["copied_by"]) == ("snapshot", "btrfs")
                dbbackup.ok("restore", "state", "--dest", tmp_path / f"restored-{number}")
                judged = Judgement(tmp_path / f"restored-{number}")
                assert judged.is_of_one_moment, vars(judged)
                assert judged.index >= acknowledged
            goes_on(place)

    def test_a_container_that_is_stopped_or_paused(self, dbbackup: Command, tmp_path: Path) -> None:
        with closing(engine()) as client:
            containers = Containers(client)
            place = tmp_path / "state"
            place.mkdir()
            try:
                made = containers.run(
                    ["python3", "-c", WRITER, "/data", "0"], binds=[f"{place}:/data"], ready="/data/head"
                )
                dbbackup.job("paused", place, type="files", method="freeze", container=made)
                assert dbbackup.ok("run", "paused")["backup"]["source"]["paused_ms"] > 0
                assert not containers.state(made)["Paused"]
                started = containers.state(made)["StartedAt"]
                dbbackup.job("stopped", place, type="files", method="cold", container=made)
                done = dbbackup.ok("run", "stopped")["backup"]["backup"]
                assert (done["consistency"], done["online"]) == ("transaction", False)
                assert containers.state(made)["Running"]
                assert containers.state(made)["StartedAt"] != started
            finally:
                containers.remove()
            for name in ("paused", "stopped"):
                dbbackup.ok("restore", name, "--dest", tmp_path / name / "restored")
                assert Judgement(tmp_path / name / "restored").is_of_one_moment


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A few files."""
    place = tmp_path / "small"
    (place / "inner").mkdir(parents=True)
    (place / "a").write_bytes(b"one")
    (place / "inner/b").write_bytes(os.urandom(100_000))
    (place / "l").symlink_to("a")
    return place


class TestRuns:
    def test_unchanged(self, dbbackup: Command, small: Path) -> None:
        dbbackup.job("small", small, type="files", skip_unchanged=True, exclude=["*.log"])
        assert dbbackup.ok("run", "small")["changed"]
        assert "nothing was committed" in dbbackup.ok("run", "small")["reason"]
        (small / "x.log").write_text("does not count")
        os.utime(small, ns=(1, 1))
        assert dbbackup.ok("run", "small")["changed"]
        (small / "inner/b").chmod(0o600)
        assert dbbackup.ok("run", "small")["changed"]
        assert not dbbackup.ok("run", "small")["changed"]

    def test_restored_in_place(self, dbbackup: Command, small: Path) -> None:
        """What was there is kept aside, what is new there does not stay."""
        wanted = appearance(small)
        dbbackup.job("small", small, type="files")
        dbbackup.ok("run", "small")
        (small / "a").write_bytes(b"two")
        (small / "new").touch()
        changed = appearance(small)
        assert "is not empty" in dbbackup.fails(1, "restore", "small")
        assert appearance(small) == changed
        done = dbbackup.ok("restore", "small", "--force")
        assert appearance(small) == wanted
        (aside,) = done["aside"]
        assert appearance(Path(aside)) == changed
        subprocess.run(["sh", "-c", " && ".join(done["undo"])], check=True)
        assert appearance(small) == changed

    def test_an_empty_one(self, dbbackup: Command, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir(mode=0o711)
        dbbackup.job("empty", tmp_path / "empty", type="files")
        dbbackup.ok("run", "empty")
        dbbackup.ok("drill", "empty")
        dbbackup.ok("restore", "empty", "--dest", tmp_path / "above/restored")
        assert appearance(tmp_path / "above/restored") == appearance(tmp_path / "empty")

    def test_what_is_left_out(self, dbbackup: Command, small: Path) -> None:
        os.mkfifo(small / "pipe")
        (small / "s\nt").mkdir()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(small / "s\nt/socket"))
            (small / "run me").touch()
            (small / "run me").chmod(0o4755)
            dbbackup.job("small", small, type="files")
            warnings = dbbackup.ok("run", "small")["warnings"]
        assert len(warnings) == 3
        for name in ("pipe is neither", "s t/socket is neither", "run me was stored without its right"):
            assert any(name in warning for warning in warnings), warnings

    @pytest.mark.root
    def test_another_file_system_below(self, dbbackup: Command, small: Path, tmp_path: Path) -> None:
        (small / "mounted").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(small / "mounted")], check=True)
        try:
            (small / "mounted/x").touch()
            for method in ("optimistic", "freeze"):
                dbbackup.job("small", small, type="files", method=method)
                with in_use(small / "a"):
                    warnings = dbbackup.ok("run", "small")["warnings"]
                assert any("mounted is on another" in warning for warning in warnings)
                dbbackup.ok("restore", "small", "--dest", tmp_path / method)
                assert os.listdir(tmp_path / method / "mounted") == []
            told = dbbackup.fails(1, "restore", "small", "--dest", small / "mounted", "--force")
            assert "is a mount point" in told
        finally:
            subprocess.run(["umount", str(small / "mounted")], check=True)

    def test_a_link_to_the_directory(self, dbbackup: Command, small: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(small)
        dbbackup.job("small", tmp_path / "link", type="files")
        dbbackup.ok("run", "small")
        wanted = appearance(small)
        (small / "a").unlink()
        dbbackup.ok("restore", "small", "--force")
        assert (tmp_path / "link").is_symlink()
        assert appearance(small) == wanted

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"path": "a"}, "small/a is not a directory"),
            ({"path": "none"}, "none cannot be backed up: No such file"),
            ({"path": "", "repository": "small/backups"}, "is inside of"),
            ({"path": "", "method": "cold"}, "name its service or container"),
            ({"path": "", "method": "hot"}, "method 'hot' is not known for files"),
            ({"path": "", "exclude": ["../x"]}, "exclude '../x'"),
            ({"path": "", "method": "snapshot"}, "no snapshot can be made of"),
        ],
    )
    def test_what_makes_no_sense(
        self, dbbackup: Command, small: Path, tmp_path: Path, options: dict[str, Any], told: str
    ) -> None:
        if "repository" in options:
            dbbackup.repository = tmp_path / options.pop("repository")
        dbbackup.job("small", small / options.pop("path"), type="files", **options)
        done = dbbackup("run", "small")
        assert done.code in (1, 2)
        assert done.stderr.count("\n") == 1
        assert told in done.stderr
        assert dbbackup.backups("small") == []

    def test_a_repository_inside_that_is_excluded(self, dbbackup: Command, small: Path, tmp_path: Path) -> None:
        dbbackup.repository = small / "backups"
        dbbackup.job("small", small, type="files", exclude=["/backups"])
        for _unused in range(2):
            dbbackup.ok("run", "small")
        dbbackup.ok("restore", "small", "--dest", tmp_path / "restored")
        assert sorted(os.listdir(tmp_path / "restored")) == ["a", "inner", "l"]

    def test_open_in_an_application(self, dbbackup: Command, small: Path) -> None:
        dbbackup.job("small", small, type="files")
        dbbackup.ok("run", "small")
        (small / "a").write_bytes(b"two")
        before = snapshot(small)
        with (small / "inner/b").open("rb"):
            assert "inner/b is open in process" in dbbackup.fails(1, "restore", "small", "--force")
        assert snapshot(small) == before

    def test_damage(self, dbbackup: Command, small: Path, tmp_path: Path) -> None:
        """A tar that is not what the manifest tells never gets to a destination, even if all its hashes are right."""
        dbbackup.job("small", small, type="files", compression="none")
        dbbackup.ok("run", "small")
        (stored,) = (dbbackup.repository / "small").glob("[0-9]*/files.tar")
        tar = bytearray(stored.read_bytes())
        tar[tar.index(b"one")] ^= 1
        replace_stored(stored, bytes(tar))
        told = dbbackup.fails(1, "restore", "small", "--dest", tmp_path / "restored")
        assert "has not the content" in told
        assert "has not the content" in dbbackup.fails(1, "verify", "small")
        assert sorted(os.listdir(tmp_path)) == ["jobs.d", "repository", "small"]


def replace_stored(stored: Path, content: bytes) -> None:
    """As somebody would who can write to the repository."""
    stored.write_bytes(content)
    manifest = stored.with_name("manifest.json")
    told = json.loads(manifest.read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    told["files"][0].update(size=len(content), sha256=sha256, repo_size=len(content), repo_sha256=sha256)
    manifest.write_text(json.dumps(told))
    sums = f"{sha256}  {stored.name}\n{hashlib.sha256(manifest.read_bytes()).hexdigest()}  manifest.json\n"
    stored.with_name("SHA256SUMS").write_text(sums)


@pytest.mark.root
class TestRights:
    def test_a_file_that_cannot_be_read(self, dbbackup: Command, small: Path, saboteur: Saboteur) -> None:
        (small / "a").chmod(0)
        dbbackup.job("small", small, type="files")
        dbbackup.repository.mkdir()
        give_away(dbbackup.repository)
        make_reachable(small / "inner")
        ended = saboteur.run(dbbackup.arguments("run", "small")[2:], user=65534)
        assert ended.code == 1
        assert "small/a cannot be read: Permission denied" in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_as_another_user(self, dbbackup: Command, tmp_path: Path, small: Path, saboteur: Saboteur) -> None:
        """Owners cannot be given back; the rest is."""
        os.chown(small / "a", 1234, 1234)
        dbbackup.job("small", small, type="files")
        dbbackup.ok("run", "small")
        for directory in (dbbackup.repository, tmp_path / "place"):
            directory.mkdir(exist_ok=True)
            give_away(directory)
        order = dbbackup.arguments("restore", "small", "--dest", tmp_path / "place/restored")[2:]
        ended = saboteur.run(order, user=65534)
        assert ended.code == 0, ended
        assert "could not be given to their owners" in ended.stdout
        assert (tmp_path / "place/restored/a").stat().st_uid == 65534
        assert (tmp_path / "place/restored/inner/b").read_bytes() == (small / "inner/b").read_bytes()
        assert saboteur.run(dbbackup.arguments("drill", "small")[2:], user=65534).code == 0

    def test_all_as_another_user(self, dbbackup: Command, tmp_path: Path, small: Path, saboteur: Saboteur) -> None:
        """Who owns the data needs no root for it."""
        dbbackup.job("small", small, type="files")
        give_away(tmp_path)
        wanted = appearance(small)
        for command in (["run", "small"], ["drill", "small"], ["restore", "small", "--dest", tmp_path / "restored"]):
            ended = saboteur.run(dbbackup.arguments(*command)[2:], user=65534)
            assert (ended.code, ended.stderr) == (0, ""), ended
            assert "warning" not in ended.stdout
        assert appearance(tmp_path / "restored") == wanted

    def test_a_full_disk(self, dbbackup: Command, small: Path, tmp_path: Path) -> None:
        """At the repository and at the destination: one sentence, and nothing is left."""
        (small / "large").write_bytes(os.urandom(2 << 20))
        place = tmp_path / "full"
        place.mkdir()
        dbbackup.job("small", small, type="files", method="optimistic")
        dbbackup.ok("run", "small")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
        try:
            told = dbbackup.fails(1, "restore", "small", "--dest", place / "restored")
            assert "No space left on device" in told
            assert os.listdir(place) == []
            dbbackup.repository = place / "repository"
            dbbackup.job("small", small, type="files", method="optimistic")
            assert "No space left on device" in dbbackup.fails(1, "run", "small")
            assert dbbackup.backups("small") == []
        finally:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_kill_at_any_call(memory: Path, saboteur: Saboteur) -> None:
    """Of a run: nothing is published that is not good, and the source is as it was. Of a restore: old or new, whole."""
    dbbackup = Command(memory / "repository", memory / "jobs.d")
    source = memory / "source"
    (source / "inner").mkdir(parents=True)
    (source / "a").write_bytes(b"one")
    (source / "inner/b").write_bytes(b"b" * 10_000)
    dbbackup.job("small", source, type="files", method="optimistic")
    run, job = dbbackup.arguments("run", "small")[2:], Repository(dbbackup.repository).job("small")
    assert saboteur.run(run).code == 0
    before = snapshot(source)
    for ended in saboteur.every(run, "SIGKILL", 5):
        assert snapshot(source) == before, ended.last_call
        assert verify(job, remember=False).opened, ended.last_call
    assert saboteur.run(run).code == 0
    assert not [entry for entry in (dbbackup.repository / "small").iterdir() if entry.name.startswith((".p", ".s"))]
    old, new = appearance(memory / "source"), None
    dest = memory / "dest"
    restore = dbbackup.arguments("restore", "small", "--dest", dest, "--force")[2:]
    for ended in saboteur.every(restore, "SIGKILL", 5):
        if dest.exists():
            new = appearance(dest)
            assert new == old, ended.last_call
            shutil.rmtree(dest)
    assert saboteur.run(restore).code == 0
    assert appearance(dest) == old
    assert not [name for name in os.listdir(memory) if name.endswith(".restoring")]


def test_a_file_that_changes_while_it_is_read(dbbackup: Command, tmp_path: Path) -> None:
    """Grows, shrinks, comes and goes: never is a torn copy stored."""
    place = tmp_path / "state"
    place.mkdir()
    for number in range(30):
        (place / f"{number:02}").write_bytes(os.urandom(300_000))
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            path = place / f"{number % 30:02}"
            os.truncate(path, 100_000)
            path.unlink()
            path.write_bytes(os.urandom(400_000))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        dbbackup.job("state", place, type="files", method="optimistic")
        assert "in each of 4 tries" in dbbackup.fails(1, "run", "state")
    finally:
        ended.set()
        thread.join()
    dbbackup.ok("run", "state")


@pytest.mark.slow
def test_many_files_need_no_more_memory(dbbackup: Command, memory: Path) -> None:
    """Of a run with twenty times as many files. What is kept of each would take hundreds of bytes."""
    peaks = []
    for count in (1_000, 20_000):
        source = memory / f"of-{count}"
        for number in range(count // 500):
            (source / str(number)).mkdir(parents=True)
            for name in range(500):
                (source / str(number) / str(name)).write_bytes(b"x")
        dbbackup.job("many", source, type="files", method="optimistic", compression="none")
        measured = ["/usr/bin/env", "python3", "-c", PEAK, *dbbackup.arguments("run", "many", "--force", "--quiet")]
        done = subprocess.run(measured, capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 3 * 1024, peaks


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_module(ansible: Ansible, small: Path, tmp_path: Path) -> None:
    """In check mode nothing is made."""
    job = {"name": "small", "path": str(small), "repository": str(tmp_path / "repository"), "exclude": ["l"]}
    predicted = ansible.module("files_backup", "--check", **job)
    assert predicted["backup"]["source"]["listing"] is None
    assert not (tmp_path / "repository").exists()
    done = ansible.module("files_backup", **job)
    assert done["backup"]["source"]["listing"]["links"] == 0
    assert done["backup"]["backup"]["consistency"] == "crash"
    assert "is not a directory" in ansible.failure("files_backup", **{**job, "path": str(small / "a")})["msg"]
