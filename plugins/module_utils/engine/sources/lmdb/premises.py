# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where environments are: on this host, or in a container, whose files are reached without following a link of it.

What LMDB opens by its name in a directory of a container could be a link by then, to a file of the host that it would
write to as to a lock file. So each file is opened here first, below the root of the container and without links, and
LMDB gets a directory of our own with links to these open files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ...containers import inside
from ...containers.container import Address
from ...containers.locate import ContainerFacts, Located, path_of
from ...containers.locate import locate as locate_in_container
from ...containers.place import Place as Directory
from ...errors import DESCRIPTORS, SourceError
from ...processes import Child, Report
from ...repository.staging import Staging
from .. import tree
from ..sqlite.site import Site
from .library import Links, Place
from .locations import Location, Locations, locate, lock_path

_DATA = "data.mdb"
_ANY_FILE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_PASS = 0o711


@dataclasses.dataclass(frozen=True)
class Premises:
    """What a path names, and how to reach it. root is the directory of it that this process can open.

    is_still: it is a copy that nobody writes to, for which the container stood still.
    """

    locations: Locations
    root: Path
    container: Optional[ContainerFacts] = None
    warnings: List[str] = dataclasses.field(default_factory=list)
    is_still: bool = False
    site: Optional[Site] = None

    def check_include(self, paths: List[str]) -> None:
        """Raise UsageError for a path that cannot be included."""
        if not self.site:
            tree.check_include(self.root, paths)

    def scan_included(self, paths: List[str], timeout: float) -> List[tree.Included]:
        """Look at what is included. Raises UsageError, SourceError."""
        return self.site.scan_included(paths, timeout) if self.site else tree.scan(self.root, paths)

    def copy_included(
        self, root: Path, paths: List[str], staging: Staging, timeout: float
    ) -> Tuple[List[tree.Included], List[str]]:
        """Store what is included, from root where it is held still; returns it, and warnings of what was left out."""
        if not paths:
            return [], []
        if self.site and root == self.root:
            return self.site.copy_included(paths, staging, timeout)
        with staging.store(tree.RECORD_PATH, os.stat(root), content="tar") as stream:
            return tree.write(stream, root, paths)


def on_host(path: Path) -> Premises:
    """A path of this host. Raises SourceError."""
    locations = locate(path)
    return Premises(locations, locations.root, warnings=locations.warnings)


@contextlib.contextmanager
def in_container(
    address: Address,
    path: Path,
    scratch: Optional[Path],
    *,
    timeout: float,
    pause_limit: Optional[float],
    may_end: bool,
) -> Iterator[Optional[Premises]]:
    """A path in a container, as long as the context lasts; None when only an archive could tell more.

    scratch, pause_limit and may_end as for containers.locate, timeout as for a Child. Raises SourceError.
    """
    with locate_in_container(
        address.name, address.docker_host, path, None, scratch, pause_limit=pause_limit, may_end=may_end
    ) as located:
        place, facts = located.place, located.facts
        if not place:
            yield None
        elif not place.root:
            yield _unpacked(place.directory, path, located)
        else:
            with _opened(place) as root:
                found = _survey(place, path, facts, timeout)
                with _linked(root, found, facts) as locations:
                    warnings = [*located.warnings, *locations.warnings]
                    yield Premises(locations, locations.root, facts, warnings, site=_site(place, root, facts))


def _unpacked(directory: Path, path: Path, located: Located) -> Premises:
    facts = located.facts
    name = "" if facts.directory == str(path) else path.name
    try:
        locations = locate(directory / name)
    except SourceError as error:
        raise SourceError(_shown(str(error), directory, facts)) from error
    warnings = [*located.warnings, *(_shown(warning, directory, facts) for warning in locations.warnings)]
    return Premises(locations, locations.root, facts, warnings, is_still=True)


def _shown(message: str, directory: Path, facts: ContainerFacts) -> str:
    return message.replace(str(directory), f"{facts.directory} of container {facts.name}")


def _survey(place: Directory, path: Path, facts: ContainerFacts, timeout: float) -> Locations:
    """What the path names, as seen by a process that has the container's directory for its root."""
    top = Path("/") if facts.directory == str(path) else Path("/", path.name)

    def survey(_report: Report) -> Dict[str, Any]:
        found = locate(top)
        paths = [location.path for location in found.environments]
        return {"single": found.is_single_file, "paths": paths, "warnings": found.warnings}

    what = f"the process that looks into {facts.directory} of container {facts.name}"
    with Child(survey, what=what, timeout=timeout, root=place.root, directory=place.directory, confined=True) as child:
        try:
            told = child.result()
        except SourceError as error:
            raise SourceError(f"{error} (seen from {facts.directory} in container {facts.name})") from error
    environments = [_location(path, told["single"]) for path in told["paths"]]
    return Locations(Path("/"), told["single"], environments, told["warnings"])


def _location(path: str, is_single_file: bool) -> Location:
    lock = os.path.basename(lock_path(path, is_single_file))
    return Location(Path("/", path).parent, Place(os.path.basename(path), lock, not is_single_file), path)


@contextlib.contextmanager
def _opened(place: Directory) -> Iterator[int]:
    """The directory, as one that this process has open."""
    with contextlib.ExitStack() as stack:
        try:
            root = os.open(str(place.root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, root)
            found = stack.enter_context(inside.resolved(root, PurePosixPath(place.directory)))
        except OSError as error:
            raise SourceError(f"the directory of the container cannot be entered: {error.strerror}") from error
        yield found.descriptor


@contextlib.contextmanager
def _linked(root: int, found: Locations, facts: ContainerFacts) -> Iterator[Locations]:
    """The environments with links to their files, which are open and none of which is a link itself."""
    with contextlib.ExitStack() as stack:
        links = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="db-backup-")))
        # Whoever enters one of the directories below has the rights of the owner of the data.
        os.chmod(links, _TO_PASS)
        environments = []
        for number, location in enumerate(found.environments):
            shown = Path(facts.directory, location.path).parent
            try:
                directory = stack.enter_context(inside.resolved(root, PurePosixPath(location.directory))).descriptor
            except OSError as error:
                raise SourceError(f"{shown} in container {facts.name} cannot be entered: {error.strerror}") from error
            made = links / str(number)
            os.mkdir(made)
            os.chmod(made, _TO_PASS)
            descriptors = []
            for name in (location.place.data, location.place.lock):
                file = _file(stack, directory, name, shown)
                if file is not None:
                    descriptors.append(file)
                    os.symlink(f"{DESCRIPTORS}{file}", made / name)
            place = dataclasses.replace(location.place, links=Links(made, tuple(descriptors), shown))
            environments.append(Location(path_of(directory), place, location.path))
        yield Locations(path_of(root), found.is_single_file, environments, found.warnings)


def _file(stack: contextlib.ExitStack, directory: int, name: str, shown: Path) -> Optional[int]:
    """A regular file that is open only to be named, None where there is none."""
    try:
        descriptor = os.open(name, _ANY_FILE, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{shown / name} cannot be read: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise SourceError(f"{shown / name} is {'a link' if stat.S_ISLNK(mode) else 'not a regular file'}")
    return descriptor


def _site(place: Directory, root: int, facts: ContainerFacts) -> Site:
    return Site(place, _DATA, f"{facts.directory} in container {facts.name}", os.fstat(root))
