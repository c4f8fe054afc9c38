# SPDX-License-Identifier: GPL-3.0-or-later
"""Real file systems in files, for tests of what only some of them can."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MAKERS = {"xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"], "ext4": ["mkfs.ext4", "-q"]}
PACKAGES = {"xfs": "xfsprogs", "btrfs": "btrfs-progs", "ext4": "e2fsprogs"}


@contextmanager
def volume(kind: str, folder: Path, megabytes: int = 400) -> Iterator[Path]:
    """A file system of this kind, mounted; the test is skipped where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip(f"may not mount a file system of {kind}: run the tests as root to include this")
    if not shutil.which(MAKERS[kind][0]):
        pytest.skip(f"{MAKERS[kind][0]} is missing: apt-get install {PACKAGES[kind]}")
    image, point = folder / f"{kind}.image", folder / kind
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([*MAKERS[kind], str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, check=False)
    if mounted.returncode != 0:
        image.unlink()
        pytest.skip(f"no loop device for {kind}: give the tests /dev/loop* and the capability SYS_ADMIN")
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
        image.unlink()


def mounted_below(place: str) -> list[str]:
    """The points of this host's mounts that begin so."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(place)]
