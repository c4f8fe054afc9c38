# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of LVM and ZFS, against recorded answers: no kernel of the tests has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture import mounts, volumes
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.commands import Commands
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.lvm import LvmWay
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.capture.zfs import ZfsWay
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError

LOGICAL = "36 25 253:0 / {point} rw,relatime shared:1 - {kind} /dev/mapper/vg0-data rw\n"
DATASET = "36 25 0:50 / {point} rw,relatime shared:1 - zfs tank/app rw,xattr\n"
NAME = volumes.own_name()
LEFT = NAME.rpartition("-")[0] + "-1"


class Recorded(Commands):
    """Answers as the real programs did, keeps what exists, and remembers what was asked."""

    def __init__(self, segment: str = "linear", failing: str = "") -> None:
        super().__init__()
        self.asked: list[str] = []
        self.there = ["data", LEFT]
        self._segment = segment
        self._failing = failing

    def missing(self, *_programs: str) -> None:
        return None

    def run(self, *arguments: str) -> str:
        line = " ".join(arguments)
        self.asked.append(line)
        if self._failing and line.startswith(self._failing):
            raise SourceError(f"{arguments[0]} ended with status 5: no message")
        if arguments[0] == "lvs":
            answers = {"vg_name,lv_name,segtype": f"  vg0|data|{self._segment}\n", "lv_snapshot_invalid": "  \n"}
            return answers.get(arguments[-2], "".join(f"  {name}\n" for name in self.there))
        if arguments[0] == "lvcreate" or arguments[1] == "snapshot":
            self.there.append(NAME)
        if arguments[0] == "lvremove" or arguments[1] == "destroy":
            self.there.remove(arguments[-1].replace("@", "/").rpartition("/")[2])
        if arguments[1] == "list":
            return "".join(f"tank/app@{name}\n" for name in self.there)
        return ""

    @property
    def changing(self) -> list[str]:
        """All that was asked for but looks."""
        return [line for line in self.asked if not line.startswith(("lvs", "zfs list"))]


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(volumes, "_may_mount", lambda: True)
    monkeypatch.setattr(volumes.MountPoint, "__init__", at(tmp_path / "run"))
    (tmp_path / "data/kg").mkdir(parents=True)
    return tmp_path / "data"


def at(place: Path) -> Callable[..., None]:
    def initialize(self: volumes.MountPoint, name: str, commands: Commands) -> None:
        self.path, self._commands = place / name, commands

    return initialize


def table(line: str, point: Path, kind: str = "") -> Callable[[], list[mounts.Mount]]:
    return lambda: mounts.parse("25 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + line.format(point=point, kind=kind))


@pytest.mark.parametrize(("kind", "options"), [("xfs", "ro,nouuid"), ("ext4", "ro")])
@pytest.mark.parametrize(("segment", "room"), [("linear", "--extents 20%ORIGIN"), ("thin", "--setactivationskip n")])
def test_lvm(point: Path, kind: str, options: str, segment: str, room: str) -> None:
    commands = Recorded(segment)
    run = point.parent / "run"
    with LvmWay(commands, table(LOGICAL, point, kind)).hold(point / "kg", ["."], point, lambda: None) as held:
        assert held.root == run / NAME / "kg"
        assert commands.there == ["data", NAME]
    assert commands.changing == [
        f"lvremove --yes vg0/{LEFT}",
        f"lvcreate --snapshot --name {NAME} {room} vg0/data",
        f"mount -t {kind} -o {options},nosuid,nodev,noexec -- /dev/vg0/{NAME} {run}/{NAME}",
        f"lvremove --yes vg0/{NAME}",
    ]
    assert commands.there == ["data"]
    assert os.listdir(run) == []


@pytest.mark.parametrize("failing", ["lvcreate", "mount"])
def test_lvm_that_fails_leaves_nothing(point: Path, failing: str) -> None:
    commands = Recorded(failing=failing)
    way = LvmWay(commands, table(LOGICAL, point, "xfs"))
    with (
        pytest.raises(SourceError, match=f"{failing} ended with status 5"),
        way.hold(point, ["."], point, lambda: None),
    ):
        pass
    assert commands.there == ["data"]


def test_a_snapshot_without_room_is_worth_nothing(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Recorded()
    answer = commands.run
    spoilt = "lv_snapshot_invalid"
    monkeypatch.setattr(commands, "run", lambda *asked: "  snapshot invalid\n" if spoilt in asked else answer(*asked))
    way = LvmWay(commands, table(LOGICAL, point, "xfs"))
    with pytest.raises(SourceError, match="had no room"), way.hold(point, ["."], point, lambda: None):
        pass
    assert commands.there == ["data"]


def test_zfs(point: Path) -> None:
    commands = Recorded()
    with ZfsWay(commands, table(DATASET, point)).hold(point / "kg", ["."], point, lambda: None) as held:
        assert held.root == point / ".zfs/snapshot" / NAME / "kg"
    assert commands.changing == [
        f"zfs destroy tank/app@{LEFT}",
        f"zfs snapshot tank/app@{NAME}",
        f"zfs destroy tank/app@{NAME}",
    ]


def test_what_is_elsewhere_is_told(point: Path) -> None:
    assert "not on a logical volume" in str(LvmWay(Recorded(), table(DATASET, point)).obstacle(point))
    assert "not on ZFS" in str(ZfsWay(Recorded(), table(LOGICAL, point, "xfs")).obstacle(point))


def test_the_top_one_of_mounts_counts() -> None:
    lines = "1 0 8:1 / /srv\\040a rw - ext4 /dev/a rw\n2 1 8:2 /x /srv\\040a rw shared:2 - xfs /dev/b rw\n"
    found = mounts.holding(Path("/srv a/kg"), lambda: mounts.parse(lines))
    assert found == mounts.Mount("/x", Path("/srv a"), "xfs", "/dev/b")
    with pytest.raises(SourceError, match="no file system"):
        mounts.holding(Path("/other"), lambda: mounts.parse(lines))


def test_whose_a_snapshot_is() -> None:
    assert not volumes.is_left(NAME)
    assert volumes.is_left(LEFT)
    assert not volumes.is_left(NAME.replace("snapshot-", "snapshot-9"))
    assert not volumes.is_left("db-backup-snapshot-of-mine")


def test_programs(tmp_path: Path) -> None:
    commands = Commands(timeout=0.2)
    assert commands.run("printf", "%s", "a b;c") == "a b;c"
    assert commands.missing("sh", "no-such-program") == "no-such-program"
    with pytest.raises(SourceError, match="is not installed"):
        commands.run("no-such-program")
    with pytest.raises(SourceError, match=r"ls ended with status 2: .*No such file"):
        commands.run("ls", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match=r"sleep did not end within 0\.2 seconds"):
        commands.run("sleep", "60")
