# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Increments: a backup with all that it cannot be restored without, each of which continues the one before."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Dict, Iterator, List

from ..errors import CorruptError, NotFoundError
from ..paths import overlap
from .manifest import FileRecord, Manifest
from .published import PublishedBackup


@dataclasses.dataclass(frozen=True)
class Link:
    """A backup and its manifest."""

    backup: PublishedBackup
    manifest: Manifest


@dataclasses.dataclass(frozen=True)
class Chain:
    """A full backup and the increments that build on it, in their order. It stands for the last of them."""

    links: List[Link]

    @property
    def backup(self) -> PublishedBackup:
        """The last one."""
        return self.links[-1].backup

    @property
    def manifest(self) -> Manifest:
        """That of the last one."""
        return self.links[-1].manifest

    @property
    def ids(self) -> List[str]:
        """Of all backups in it, the full one first."""
        return [link.backup.id for link in self.links]

    def check_sizes(self) -> None:
        """See that every stored file is there with its size; raises CorruptError."""
        for link in self.links:
            with self.blaming(link):
                link.backup.check_sizes(link.manifest)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While it is held, no other process removes any of the backups.

        Raises LockedError, or NotFoundError when one was removed just now.
        """
        with contextlib.ExitStack() as stack:
            for link in self.links:
                try:
                    stack.enter_context(link.backup.in_use())
                except FileNotFoundError:
                    raise NotFoundError(f"job {link.backup.job} has no backup {link.backup.id} any more") from None
            yield

    @contextlib.contextmanager
    def blaming(self, link: Link) -> Iterator[None]:
        """Have a CorruptError about a backup below the last one tell that it is about that, too."""
        try:
            yield
        except CorruptError as error:
            if link is self.links[-1]:
                raise
            raise _unsound(self.backup, error) from error

    def merged(self, files: List[FileRecord]) -> Manifest:
        """The manifest of the last one as that of a backup with all these files, from the position of the full one."""
        first, last = self.links[0].manifest, self.manifest
        position = last.source.position
        if position and first.source.position:
            position = dataclasses.replace(position, start=first.source.position.start)
        checks = [link.manifest.check for link in self.links]
        opened = all(check and check.opened for check in checks)
        read_back = all(check and check.read_back for check in checks)
        return dataclasses.replace(
            last,
            files=files,
            source=dataclasses.replace(last.source, position=position),
            summary=dataclasses.replace(last.summary, size=sum(record.size for record in files)),
            check=last.check and dataclasses.replace(last.check, opened=opened, read_back=read_back),
        )


class Chains:
    """Reads the chains of a job, each sound manifest once."""

    def __init__(self) -> None:
        self._links: Dict[str, Link] = {}

    def of(self, backup: PublishedBackup) -> Chain:
        """The chain that ends with this backup.

        Raises NotFoundError when it is not there, and CorruptError when one that it builds on is not, or when they do
        not continue each other.
        """
        last = self._link(backup)
        links = []
        for reference in last.manifest.backup.reference:
            try:
                links.append(self._link(PublishedBackup(backup.path.parent / reference)))
            except NotFoundError:
                raise CorruptError(f"{_named(backup)} builds on {reference}, which is not there") from None
            except CorruptError as error:
                raise _unsound(backup, error) from error
        chain = Chain([*links, last])
        _check(chain)
        return chain

    def _link(self, backup: PublishedBackup) -> Link:
        if backup.id not in self._links:
            self._links[backup.id] = Link(backup, backup.manifest())
        return self._links[backup.id]


def _check(chain: Chain) -> None:
    for index, (prior, link) in enumerate(zip(chain.links, chain.links[1:]), 1):
        then, now = prior.manifest, link.manifest
        continues = (
            now.backup.reference == chain.ids[:index]
            and (now.engine.name, now.source.path) == (then.engine.name, then.source.path)
            and now.source.position
            and then.source.position
            and now.source.position.continues(then.source.position)
        )
        if not continues:
            raise CorruptError(f"{_named(link.backup)} does not continue {prior.backup.id}, which it builds on")
    if overlap([record.path for link in chain.links for record in link.manifest.files]):
        raise CorruptError(f"{_named(chain.backup)} has a file in the place of one that it builds on")


def _unsound(backup: PublishedBackup, error: CorruptError) -> CorruptError:
    return CorruptError(f"{_named(backup)} builds on what is not sound: {error}")


def _named(backup: PublishedBackup) -> str:
    return f"backup {backup.id} of job {backup.job}"
