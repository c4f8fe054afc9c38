# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restore a backup: everything is unpacked and proven beside the destination before anything there changes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from pathlib import Path
from typing import BinaryIO, ContextManager, Dict, List, Optional, Type

from .. import times
from ..errors import RestoreError, UsageError, sentence
from ..interrupts import end_of_work, held_back
from ..paths import create, is_directory
from ..processes import check_timeout
from ..repository import locks
from ..repository.manifest import UNKNOWN, FileRecord, Manifest
from ..repository.repository import JobDirectory
from ..repository.state import Exchange
from ..sources.base import Restoration, Source, Tree
from ..sources.registry import source_of
from ..standstill import Standstill, StillRunningError
from ..stream.stages import InThread, Reader, SparseFileWriter, Stage
from . import exchanges, present
from .choice import Choice, Point, choose
from .ownership import Ownership
from .progress import Progress, silent
from .proof import checked_trees, corruption_in
from .request import Request, destination_of
from .restored import Difference, Restored
from .swap import Swap, free_suffix, holds_anything, is_aside, original_of


def restore(
    directory: JobDirectory, point: Point, request: Request, predict: bool = False, progress: Progress = silent
) -> Restored:
    """Restore the backup that is asked for, with all that it builds on; with predict, only look.

    When the destination already holds just what the backup holds, it only gets the owner, group and mode that are asked
    for. Raises RestoreError when the destination is not empty and force is not given, or is open in an application;
    CorruptError when the backup does not verify. Then the destination is as it was.
    """
    choice = choose(directory, point)
    with choice.chain.in_use(), request.standstill(source_of(choice.manifest.engine.name)) as application:
        work = _Restore.prepare(choice, request, progress, application)
        killed = exchanges.killed_at(directory, str(work.destination))
        if killed:
            work.warnings.append(killed)
        is_done = work.is_done()
        difference = work.difference(is_done) if request.describe else Difference()
        if is_done:
            result = work.result(work.give(predict), [], difference)
        else:
            work.refuse()
            result = work.result(True, work.asides() if predict else work.run(directory), difference)
        if killed and not predict:
            exchanges.forget(directory, str(work.destination))
        return result


@dataclasses.dataclass(frozen=True)
class _Restore:
    """What the steps of one restore share. manifest tells of all files, also of those of backups that it builds on."""

    choice: Choice
    request: Request
    progress: Progress
    manifest: Manifest
    source: Type[Source]
    trees: Dict[str, Tree]
    plan: Restoration
    asked: Ownership
    warnings: List[str]
    application: Optional[Standstill]

    @classmethod
    def prepare(
        cls, choice: Choice, request: Request, progress: Progress, application: Optional[Standstill]
    ) -> _Restore:
        """Read and check everything that is small."""
        manifest, warnings = choice.manifest, [*choice.passed_over]
        source = source_of(manifest.engine.name)
        for link in choice.chain.links:
            if os.geteuid() == 0 and request.destination is None and os.stat(link.backup.path).st_uid != 0:
                # Its owner could have written any path into the manifest.
                told = "does not belong to root; as root, tell where to restore to with dest"
                raise RestoreError(f"{link.backup.path} {told}")
        if manifest.backup.consistency == UNKNOWN:
            warnings.append(f"nobody knows whether backup {manifest.id} is consistent; its manifest tells more")
        trees = checked_trees(manifest.files, source, manifest.source)
        request = dataclasses.replace(request, destination=destination_of(manifest, request, application))
        plan = source.restoration(manifest, request.destination)
        if not plan.root.is_absolute():
            raise UsageError(f"dest {plan.root} is not an absolute path")
        # The destination itself is the administrator's choice, link or not; links inside it are not followed.
        plan = dataclasses.replace(plan, root=Path(os.path.realpath(plan.root)))
        check_timeout(request.tools.timeout)
        asked = request.ownership()
        return cls(choice, request, progress, manifest, source, trees, plan, asked, warnings, application)

    def result(self, changed: bool, aside: List[Path], difference: Difference) -> Restored:
        """What to tell of it."""
        root = self.plan.root
        files = [root / name for name in [*self.plan.files.values(), *self.plan.trees]]
        return Restored(
            changed=changed,
            destination=self.destination,
            files=files,
            aside=aside,
            map_sizes=self.plan.map_sizes,
            backup=self.choice.chain.manifest.to_json(),
            warnings=self.warnings,
            position=self.choice.position,
            application=self.application.name if self.application and self.application.was_running else None,
            undo=self._undo(aside),
            difference=difference,
        )

    def is_done(self) -> bool:
        """Whether the destination already holds just what the backup holds."""
        return not self._displaced() and all(self._is_in_place(record) for record in self.manifest.files)

    def give(self, predict: bool) -> bool:
        """Give what is in place the owner, group and mode that are asked for; returns whether it had others."""
        if self.asked == Ownership():
            return False
        root, trees = self.plan.root, [present.names_in_tree(self.plan.root, path) for path in self.plan.trees]
        try:
            changed = [present.give(root, self.plan.files.values(), self.asked, predict)]
            # The mode is that of database files.
            changed += [present.give(root, names, self.asked._replace(mode=None), predict) for names in trees]
        except OSError as error:
            raise RestoreError(f"cannot change the owner or mode of what is in place: {sentence(error)}") from error
        return any(changed)

    def difference(self, is_done: bool) -> Difference:
        """Sizes, hashes, owners and modes of the database files."""
        before, states = present.describe(self.plan.root, self.plan.files)
        records = [record for record in self.manifest.files if record.content == "file"]
        given = {}
        for record in records:
            # What is in place keeps what is not asked for.
            status = states.get(record.path) if is_done else None
            given[record.path] = (self.asked if is_done else self._ownership(record)).in_words(status)
        found = {path: Ownership().in_words(status) for path, status in states.items()}
        dest = {"dest": str(self.destination)}
        hashes = {record.path: record.sha256 for record in self.manifest.files}
        after = {**dest, "size": self.manifest.summary.size, "sha256": hashes, "owner": given}
        return Difference({**dest, **before, "owner": found} if states else {}, after)

    def asides(self) -> List[Path]:
        """Where what is there would be kept, if the restore was now."""
        targets = [self.plan.root / name for name in [*self.plan.files.values(), *self.plan.trees]] + self._displaced()
        suffix = free_suffix([*targets, *(self.plan.root / lock for lock in self.plan.stale)])
        return [path.with_name(path.name + suffix) for path in targets if os.path.lexists(path)]

    def _undo(self, aside: List[Path]) -> List[str]:
        """In the order of a restore. What came to be beside the restored files since then must not stay there."""
        if not aside:
            return []
        beside = [self.plan.root / name for name in [*self.plan.displaced, *self.plan.stale]]
        commands = [["rm", "-f", str(path)] for path in dict.fromkeys(beside)]
        for path in aside:
            target = original_of(path)
            if is_directory(target):
                commands.append(["mv", "-T", str(target), f"{target}.undone"])
            commands.append(["mv", "-T", str(path), str(target)])
        if self.application and self.application.was_running:
            stop, start = self.application.commands
            commands = [stop, *commands, start]
        return [" ".join(map(shlex.quote, command)) for command in commands]

    def refuse(self) -> None:
        """Raise RestoreError when the destination must not be replaced."""
        occupied = self._occupied()
        if occupied and not self.request.force:
            raise RestoreError(f"{occupied} is not empty; with force it is replaced, and what is there is kept aside")
        for target in [*self.plan.files.values(), *self.plan.trees]:
            _refuse_links(self.plan.root, target)
            place = self.plan.root / target
            if os.path.ismount(place):
                raise RestoreError(f"{place} is a mount point, which cannot be exchanged; restore elsewhere with dest")
        if self.application:
            self.application.refuse()
        else:
            self.warnings.extend(self.source.refuse_in_use(self.plan))

    def run(self, directory: JobDirectory) -> List[Path]:
        """Unpack, prove and swap; returns what was put aside."""
        try:
            place = self.plan.place
            with Swap(place) as swap:
                directory_of_all = swap.open_directory(place, self._ownership(self.manifest.files[0]).of_directory())
                with locks.locked(directory_of_all, str(place)):
                    with corruption_in(f"backup {self.manifest.id} of job {self.manifest.job}"):
                        staged = self._stage(swap)
                    if self.application:
                        self.application.refuse_unseen(self.plan.root, staged)
                        self.application.stop()
                    self.source.refuse_in_use(self.plan)
                    for lock in self.plan.stale:
                        swap.discard(self.plan.root / lock)
                    # Also what is not there now: an application that is tried out may make it.
                    beside = [self.plan.root / name for name in self.plan.displaced]
                    for path in dict.fromkeys([*self._displaced(), *beside]):
                        swap.displace(path)
                    with self._noted(directory):
                        return _commit(swap, self.application)
        except OSError as error:
            raise RestoreError(
                f"cannot restore to {self.plan.root}: {sentence(error)}; what was there is unchanged"
            ) from error

    def _noted(self, directory: JobDirectory) -> ContextManager[None]:
        stopped = self.application.name if self.application and self.application.was_running else None
        if not (stopped or self.asides()):
            # What replaces nothing leaves nothing half old.
            return contextlib.nullcontext()
        exchange = Exchange(times.to_rfc3339(times.now()), self.choice.chain.backup.id, str(self.plan.root), stopped)
        return exchanges.noted(directory, str(self.destination), exchange)

    def _stage(self, swap: Swap) -> List[Path]:
        """Returns where the files are that will come to their targets."""
        staged = {}
        for record in self.manifest.files:
            if record.content == "tar":
                self._stage_tree(swap, record)
            else:
                staged[record.path] = self._stage_file(swap, record)
        tools, origin = self.request.tools, self.manifest.source
        if not (self.manifest.check and self.manifest.check.opened) and self.source.can_check(origin, tools):
            # Nobody has ever opened this copy: do it before it replaces anything.
            with contextlib.ExitStack() as stack:
                for record in self.manifest.files:
                    if record.content == "tar" and self.trees[record.path].is_data:
                        spare = stack.enter_context(swap.spare(self.plan.root / record.path))
                        self._load(record, InThread(SparseFileWriter(create(spare))))
                        staged[record.path] = self.plan.root / spare.name
                self.source.check(staged, origin, tools)
        return [staged[record.path] for record in self.manifest.files if record.content == "file"]

    def _stage_file(self, swap: Swap, record: FileRecord) -> Path:
        target = self.plan.root / self.plan.files[record.path]
        swap.open_directory(target.parent, self._ownership(record).of_directory())
        staged = swap.stage(target)
        descriptor = create(staged)
        swap.give(descriptor, self._ownership(record))
        self._load(record, InThread(SparseFileWriter(descriptor)))
        return target.with_name(staged.name)

    def _stage_tree(self, swap: Swap, record: FileRecord) -> None:
        brought, targets = self.trees[record.path], {}
        for path in brought.paths:
            swap.open_directory((self.plan.root / path).parent, self._ownership(record).of_directory())
            targets[path] = swap.stage(self.plan.root / path)

        def unpack(archive: BinaryIO) -> None:
            self.warnings.extend(brought.unpack(archive, targets, self.asked.uid, self.asked.gid))

        self._load(record, Reader(unpack))

    def _load(self, record: FileRecord, target: Stage) -> None:
        self.choice.load(record.path, target, self.progress)

    def _is_in_place(self, record: FileRecord) -> bool:
        if record.content == "file":
            return present.is_in_place(self.plan.root, self.plan.files[record.path], record)
        answers = []
        any_owner = self.asked.uid is not None or self.asked.gid is not None

        def compare(archive: BinaryIO) -> None:
            answers.append(self.trees[record.path].is_unpacked(archive, self.plan.root, any_owner))

        self._load(record, Reader(compare))
        return answers == [True]

    def _displaced(self) -> List[Path]:
        """What must not stay beside the restored files."""
        root, names = self.plan.root, self.plan.displaced
        if self.plan.whole and is_directory(root):
            restored = [*self.plan.files.values(), *self.plan.trees, *self.plan.stale]
            known = {name.split("/")[0] for name in restored}
            names = [name for name in sorted(os.listdir(root)) if name not in known and not is_aside(name)]
        # A directory without files harms nobody, as lost+found at a mount point.
        return [
            root / name
            for name in names
            if os.path.lexists(root / name) and (not is_directory(root / name) or holds_anything(root / name))
        ]

    def _occupied(self) -> Optional[Path]:
        """What is in the way, if anything: any file in a directory that is restored, else any of the targets."""
        root = self.plan.root
        if root == Path(os.path.realpath(self.destination)) and is_directory(root) and holds_anything(root):
            return root
        names = [*self.plan.files.values(), *(path for path in self.plan.trees if root / path != root)]
        return next((root / name for name in names if os.path.lexists(root / name)), None)

    @property
    def destination(self) -> Path:
        """Where to, as people call it."""
        return self.request.destination or Path(self.manifest.source.path)

    def _ownership(self, record: FileRecord) -> Ownership:
        """As asked, else as in the backup, as far as this user may."""
        is_root = os.geteuid() == 0
        return Ownership(
            uid=record.uid if self.asked.uid is None and is_root else self.asked.uid,
            gid=record.gid if self.asked.gid is None and is_root else self.asked.gid,
            mode=record.mode & 0o777 if self.asked.mode is None else self.asked.mode,
        )


def _commit(swap: Swap, application: Optional[Standstill]) -> List[Path]:
    """Swap to the end or undo all: a signal takes effect before or after, never in between."""
    with held_back():
        if application:
            application.begin_exchange()
        try:
            aside = swap.commit(application.start if application else None)
        except StillRunningError as error:
            # To put old files back below a server that runs would spoil both.
            told = f"the restored files stay, what was there lies beside them as *{swap.keep()}"
            raise StillRunningError(f"{error}; {told}") from error
        end_of_work()
        return aside


def _refuse_links(root: Path, target: str) -> None:
    """Root must not be led out of the destination by a link that its owner put there."""
    for parent in list(Path(target).parents)[:-1]:
        if (root / parent).is_symlink():
            raise RestoreError("%s is a link; a restore does not follow links inside its destination" % (root / parent))
