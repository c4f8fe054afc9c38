# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the directory of a database in a container, and the best way to its files from here.

The ways, in the order in which they are tried: the volume or bind mount it lies on; the merged file system of the
container; the root of its first process; where the host has none of these, the archive the engine makes of a paused
container. Never the upper directory of overlay2: a database written to there is destroyed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import RestoreError, SourceError, UsageError
from . import archive, inside
from .container import Container, Decoder
from .daemon import Daemon
from .pause import paused
from .place import Place

PAUSE_SECONDS = 60.0
_ROOT = PurePosixPath("/")
# As the engine tells of modes, those of the language Go.
_DIRECTORY_BIT = 1 << 31


@dataclasses.dataclass(frozen=True)
class ContainerFacts:
    """What a manifest tells of a container: names of its environment variables, never their values.

    way is volume, merged, process or archive; found_by tells how its directory was found; paused_ms for how many
    milliseconds the container was paused, None where nobody had to.
    """

    name: str
    id: str
    image: str
    image_id: str
    environment: List[str]
    directory: str
    way: str
    found_by: str
    paused_ms: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Located:
    """A directory of a container. place is None when it can be reached by an archive only and no scratch was given.

    surroundings is where absolute paths of the container begin, for other files of it.
    """

    place: Optional[Place]
    surroundings: Optional[Place]
    facts: ContainerFacts
    warnings: List[str]


class Candidate(NamedTuple):
    """A directory in which the database may be, and how one came to think so."""

    directory: PurePosixPath
    found_by: str


class _Reached(NamedTuple):
    """A way to a directory, and for how many milliseconds it had the container paused."""

    way: str
    place: Optional[Place] = None
    surroundings: Optional[Place] = None
    paused_ms: Optional[int] = None


class Look:
    """A look into a running container without changing it. root is its open root directory, None where out of reach."""

    def __init__(self, daemon: Daemon, container: Container, root: Optional[int]) -> None:
        self.container = container
        self.root = root
        self._daemon = daemon

    def read(self, path: PurePosixPath, limit: int) -> Optional[bytes]:
        """At most limit bytes of a regular file, None where there is none."""
        if self.root is not None:
            return inside.read_file(self.root, path, limit)
        if self._daemon.path_status(self.container, str(path)) is None:
            return None
        with self._daemon.archive(self.container, str(path)) as chunks:
            return archive.read_file(chunks, limit)

    def exists(self, path: PurePosixPath) -> bool:
        """Whether there is something at this path."""
        if self.root is None:
            return self._daemon.path_status(self.container, str(path)) is not None
        try:
            with inside.resolved(self.root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC):
                return True
        except OSError:
            return False

    def is_directory(self, path: PurePosixPath) -> bool:
        """Whether there is a directory at this path, or at the end of links from there."""
        if self.root is None:
            status = self._daemon.path_status(self.container, str(path)) or {}
            target = status.get("linkTarget")
            if target:
                status = self._daemon.path_status(self.container, str(target)) or {}
            return bool(Decoder(status).number("mode") & _DIRECTORY_BIT)
        try:
            with inside.resolved(self.root, path):
                return True
        except OSError:
            return False

    def in_use(self, file_name: str) -> List[PurePosixPath]:
        """Where processes of the container have a file of this name open, as far as one can see."""
        return [] if self.root is None else inside.directories_in_use(self.container, self.root, file_name)


Guess = Callable[[Look], Iterator[Candidate]]


@contextlib.contextmanager
def locate(
    container: str,
    docker_host: Optional[str],
    path: Optional[Path],
    file_name: Optional[str],
    scratch: Optional[Path] = None,
    *,
    guess: Optional[Guess] = None,
    include: Sequence[str] = (),
    pause_limit: Optional[float] = PAUSE_SECONDS,
    may_end: bool = False,
) -> Iterator[Located]:
    """The directory path of a running container, or without one that in which it has file_name.

    Without file_name, path may also be that of a file; what is located is its directory then.

    Then guess names directories to try; that in which a process of the container has the file open counts more. scratch
    is an empty private directory for the way of the archive; include has absolute paths that surroundings must have
    then, pause_limit how many seconds the container may be paused, None that it may not. The places are valid until
    this is left. Raises SourceError, also on leaving when the container ended meanwhile, unless it may.
    """
    with Daemon(docker_host) as daemon, contextlib.ExitStack() as stack:
        found = daemon.find(container)
        found.refuse_unless_running()
        root = stack.enter_context(inside.entered(found)) if daemon.is_local else None
        look = Look(daemon, found, root)
        candidate = _asked_for(path) if path else _found(look, file_name or "", guess)
        wanted = candidate.directory / (file_name or "")
        if not look.exists(wanted):
            raise SourceError(f"there is no {wanted} in container {found.name}")
        if file_name is None and not look.is_directory(wanted):
            candidate = candidate._replace(directory=wanted.parent)
        reached = stack.enter_context(
            _by_archive(_Fetch(daemon, found, scratch, include, pause_limit), candidate.directory)
            if root is None
            else _by_host(look, root, candidate.directory)
        )
        yield Located(reached.place, reached.surroundings, _facts(found, candidate, reached), _warnings(found))
        # Whatever was copied of a container that died meanwhile may be half of what it was about to write.
        if not may_end and not found.is_same_run(daemon.look(found.id)):
            raise SourceError(f"container {found.name} ended while it was backed up; start it and run the backup again")


def host_directory(daemon: Daemon, container: Container, directory: PurePosixPath) -> Path:
    """The path on this host, without links, of a directory that a container has on a volume or bind mount.

    Raises RestoreError for a directory that is not on one, does not exist, or is out of reach from here.
    """
    mount = next((mount for mount in container.mounts if mount.destination in (directory, *directory.parents)), None)
    name = container.name
    if not mount:
        raise RestoreError(f"{directory} of container {name} is not on a volume; it can only be restored to a dest")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_opened(Path(mount.source))) if daemon.is_local else None
        if source is None:
            raise RestoreError(
                f"the volume of container {name} cannot be reached from here; restore on its Docker host"
            )
        try:
            found = stack.enter_context(inside.resolved(source, _ROOT / directory.relative_to(mount.destination)))
        except OSError as error:
            raise RestoreError(
                f"there is no {directory} in the volume of container {name}: {error.strerror}"
            ) from error
        root = stack.enter_context(inside.entered(container))
        if root is not None and not _is_same(root, directory, found.identity):
            raise RestoreError(f"{mount.source} is not what container {name} has at {mount.destination}")
        return Path(mount.source) / found.path.relative_to(_ROOT)


def _asked_for(path: Path) -> Candidate:
    directory = PurePosixPath(path)
    if not directory.is_absolute() or ".." in directory.parts:
        raise UsageError(f"path {path} is not an absolute path in the container")
    return Candidate(directory, "path")


def _found(look: Look, file_name: str, guess: Optional[Guess]) -> Candidate:
    name = look.container.name
    guesses = list(guess(look)) if guess else []
    in_use = look.in_use(file_name)
    if len(in_use) > 1:
        meant = [candidate.directory for candidate in guesses if candidate.directory in in_use]
        if len(set(meant)) != 1:
            places = ", ".join(str(directory) for directory in in_use)
            raise SourceError(f"container {name} has {file_name} open in {places}; tell which one with path")
        in_use = meant[:1]
    if in_use:
        return Candidate(in_use[0], "open file")
    for candidate in guesses:
        if look.exists(candidate.directory / file_name):
            return candidate
    tried = ", ".join(dict.fromkeys(str(candidate.directory) for candidate in guesses)) or "no directory"
    raise SourceError(f"no {file_name} was found in container {name}, looked in {tried}; tell where with path")


def _facts(container: Container, candidate: Candidate, reached: _Reached) -> ContainerFacts:
    return ContainerFacts(
        name=container.name,
        id=container.id,
        image=container.image,
        image_id=container.image_id,
        environment=sorted(container.environment),
        directory=str(candidate.directory),
        way=reached.way,
        found_by=candidate.found_by,
        paused_ms=reached.paused_ms,
    )


def _warnings(container: Container) -> List[str]:
    return [f"container {container.name} is paused and was left so"] if container.is_paused else []


@contextlib.contextmanager
def _by_host(look: Look, root: int, directory: PurePosixPath) -> Iterator[_Reached]:
    """Places whose root is a directory this process has open, so that nobody can put another in its stead."""
    surroundings = Place(Path("/"), root=path_of(root))
    with inside.resolved(root, directory) as wanted:
        for way, source, path in _sources(look.container, wanted.path):
            with contextlib.ExitStack() as stack:
                opened = stack.enter_context(_opened(source))
                if opened is not None and _is_same(opened, path, wanted.identity):
                    yield _Reached(way, Place(Path(path), root=path_of(opened)), surroundings)
                    return
        yield _Reached("process", Place(Path(wanted.path), root=path_of(root)), surroundings)


def _sources(container: Container, directory: PurePosixPath) -> Iterator[Tuple[str, Path, PurePosixPath]]:
    """Directories of the host that should be an ancestor of the wanted one, and its path below them."""
    for mount in container.mounts:
        if mount.destination in (directory, *directory.parents):
            yield "volume", Path(mount.source), _ROOT / directory.relative_to(mount.destination)
            break
    if container.merged:
        yield "merged", container.merged, directory


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Optional[int]]:
    try:
        descriptor = os.open(str(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_same(root: int, path: PurePosixPath, identity: inside.Identity) -> bool:
    """The engine said where the directory is; the kernel says whether that is true."""
    try:
        with inside.resolved(root, path) as found:
            return found.identity == identity
    except OSError:
        return False


def path_of(descriptor: int) -> Path:
    """A path by which children of this process reach what it has open."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


@dataclasses.dataclass(frozen=True)
class _Fetch:
    """How to fetch files through the engine."""

    daemon: Daemon
    container: Container
    scratch: Optional[Path]
    include: Sequence[str]
    pause_limit: Optional[float]

    def unpack(self, path: str, target: Path, deadline: Optional[float] = None) -> None:
        """Fetch a file or directory to below a private directory."""
        with self.daemon.archive(self.container, path) as chunks:
            archive.unpack(chunks, target, deadline)


@contextlib.contextmanager
def _by_archive(fetch: _Fetch, directory: PurePosixPath) -> Iterator[_Reached]:
    if not fetch.scratch:
        yield _Reached("archive")
        return
    if fetch.pause_limit is None:
        raise SourceError(
            f"the files of container {fetch.container.name} can only be had of its engine while it is paused; "
            "use method freeze, or allow it with freeze_timeout"
        )
    with tempfile.TemporaryDirectory(dir=fetch.scratch) as private:
        target, around = Path(private, "directory"), Path(private, "surroundings")
        for made in (target, around):
            made.mkdir(mode=0o700)
        with paused(fetch.daemon, fetch.container, fetch.pause_limit) as pause:
            # The dot has the engine follow a link at the end of the path.
            fetch.unpack(f"{directory}/.", target, pause.deadline)
        for path in fetch.include:
            parent = around / PurePosixPath(path).parent.relative_to(_ROOT)
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fetch.unpack(path, parent)
        yield _Reached("archive", Place(target), Place(around), pause.milliseconds)
