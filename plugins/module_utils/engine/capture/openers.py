# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which processes have files open or mapped."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from ..errors import SourceError, sentence
from ..paths import open_relative
from ..running import Process, all_processes

Identity = Tuple[int, int]


class Openers(NamedTuple):
    """The processes, and how many others could not be looked at."""

    found: List[Process]
    hidden: int


def files_below(directory: Path, paths: Sequence[str]) -> Dict[Identity, str]:
    """Device and inode of the regular files at or below the paths, with their names. No link is followed."""
    found: Dict[Identity, str] = {}
    try:
        top = os.open(str(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in paths:
                found.update(_files_at(top, path))
        finally:
            os.close(top)
    except OSError as error:
        raise SourceError(f"{directory}: {sentence(error)}") from error
    return found


def openers(files: Dict[Identity, str], others: Set[int]) -> Openers:
    """Those that have one of the files open or mapped now; others are not looked at."""
    found, hidden = [], 0
    for number in all_processes():
        if number in others:
            continue
        process = Process.of(number)
        if not process:
            continue
        try:
            # Looked at again when it is known by its birth: the number may have been that of another before.
            if _has_any(number, files) and process.is_here:
                found.append(process)
        except PermissionError:
            hidden += process.is_here
        except OSError:
            continue
    return Openers(found, hidden)


def _files_at(top: int, path: str) -> Iterator[Tuple[Identity, str]]:
    *parents, name = path.split("/")
    directory = open_relative(top, parents, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.lstat(name, dir_fd=directory)
        if stat.S_ISREG(status.st_mode):
            yield (status.st_dev, status.st_ino), name
        elif stat.S_ISDIR(status.st_mode):
            for _above, _names, files, inner in os.fwalk(name, dir_fd=directory):
                for file in files:
                    with contextlib.suppress(FileNotFoundError):
                        status = os.lstat(file, dir_fd=inner)
                        if stat.S_ISREG(status.st_mode):
                            yield (status.st_dev, status.st_ino), file
    finally:
        os.close(directory)


def _has_any(number: int, files: Dict[Identity, str]) -> bool:
    place = f"/proc/{number}"
    for name in os.listdir(f"{place}/fd"):
        # It may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"{place}/fd/{name}")
            if (status.st_dev, status.st_ino) in files:
                return True
    inodes = {inode for _device, inode in files}
    with open(f"{place}/maps", "rb") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if int(fields[4]) in inodes and _is_one_of(place, fields, files):
                return True
    return False


def _is_one_of(place: str, fields: List[bytes], files: Dict[Identity, str]) -> bool:
    """A file system such as btrfs numbers devices otherwise in a list of maps, so a name decides where need be."""
    try:
        status = os.stat(f"{place}/map_files/{fields[0].decode()}")
        return (status.st_dev, status.st_ino) in files
    except OSError:
        name = os.fsdecode(os.path.basename(fields[5].rstrip(b"\n"))) if len(fields) > 5 else ""
        return any(identity[1] == int(fields[4]) and known == name for identity, known in files.items())
