# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A job: what to back up, where to, and how. The same words in modules, job files and on the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

from .decoding import DecodingError, decode, did_you_mean
from .errors import BackupError, NotFoundError, UsageError
from .paths import check_job_name
from .repository.repository import JobDirectory, Repository, default_repository
from .repository.retention import Policy
from .routine import Routine
from .sources.base import Source
from .sources.registry import job_type
from .stores.table import Store
from .stream import compression as codecs

_DIRECTORY = Path("/etc/db-backup/jobs.d")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that jobs of every type have. min_age_hours is compared with the last good backup."""

    name: str
    type: str
    repository: Optional[str] = None
    compression: str = "zstd"
    compression_level: Optional[int] = None
    verify: bool = True
    min_age_hours: float = 0
    skip_unchanged: bool = False
    force: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings, the source they lead to, what to keep of its backups, and what happens around it on its host.

    also_to are the stores that get each of the backups too.
    """

    settings: Settings
    retention: Policy
    routine: Routine
    source: Source
    compression: codecs.Compression
    timeout: float
    also_to: List[Store] = dataclasses.field(default_factory=list)

    @property
    def directory(self) -> JobDirectory:
        """Where the backups of the job are."""
        return repository_at(self.settings.repository).job(self.settings.name)


# What jobs of every type can say.
_COMMON = (Settings, Policy, Routine)


def default_directory() -> Path:
    """Where job files are unless told: in the configuration of a user who has some there, else of the host."""
    own = Path(os.path.expanduser("~/.config/db-backup/jobs.d"))
    return own if os.geteuid() != 0 and os.path.isdir(own) else _DIRECTORY


def repository_at(path: Optional[str]) -> Repository:
    """The repository at a path, or the default one."""
    return Repository(Path(path) if path else default_repository())


def check_options(options: Dict[str, Any]) -> None:
    """Raise UsageError for an unknown type, an option that the type does not have, or a bad name."""
    options_class = job_type(options.get("type"))[1]
    known = [name for known in (*_COMMON, options_class) for name in _names_of(known)]
    for key in options:
        if key not in known:
            raise UsageError(f"{key}: is not known{did_you_mean(str(key), known)}")
    if "name" not in options:
        raise UsageError("name: is missing")
    if isinstance(options["name"], str):
        check_job_name(options["name"])


def parse(options: Dict[str, Any], place: str = "") -> Job:
    """Make a job of options as a job file or a module gives them. place is put before messages.

    Raises UsageError naming the option at fault.
    """
    try:
        check_options(options)
        source_class, options_class = job_type(options["type"])
        settings = decode(Settings, _only(options, _names_of(Settings)))
        retention = decode(Policy, _only(options, _names_of(Policy)))
        routine = decode(Routine, _only(options, _names_of(Routine)))
        specific = decode(options_class, _only(options, _names_of(options_class)))
        # A floor or a timezone alone would keep everything for ever without a word; modules give every default.
        if retention != Policy():
            retention.check_rules()
        if settings.min_age_hours < 0:
            raise UsageError(f"min_age_hours: {settings.min_age_hours:g} is negative")
        if not math.isfinite(settings.min_age_hours):
            raise UsageError(f"min_age_hours: {settings.min_age_hours:g} is not a number of hours")
        routine.check()
        compression = codecs.choose(settings.compression, settings.compression_level)
        source, also_to = source_class(specific), getattr(specific, "also_to", [])
        return Job(settings, retention, routine, source, compression, specific.timeout, also_to)
    except (DecodingError, UsageError) as error:
        raise UsageError(_at(place, str(error))) from error


def faults(options: Dict[str, Any]) -> List[str]:
    """Every mistake in the options of a job, each as parse would tell it; empty when there is none."""
    left = dict(options)
    found: List[str] = []
    while True:
        try:
            parse(left)
            return found
        except UsageError as error:
            told = str(error)
        match = re.match(r"\w+", told)
        culprit = match.group() if match else ""
        if culprit in options and culprit not in left:
            # It was taken out, and is told already.
            return found
        found.append(told)
        if culprit not in left or culprit in ("name", "type"):
            return found
        del left[culprit]


def load(directory: Path, name: str, repository: Optional[str] = None) -> Job:
    """Read the job file of this name; a repository given here counts more than that of the file.

    Raises NotFoundError, or UsageError for a file that is not valid.
    """
    path = directory / (check_job_name(name) + ".json")
    try:
        options = json.loads(path.read_bytes())
    except FileNotFoundError:
        known = ", ".join(names(directory)) or "none"
        raise NotFoundError(f"there is no job {name} in {directory}; known are: {known}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"{path} does not hold an object")
    if options.setdefault("name", name) != name:
        raise UsageError(f"{path}: name: must be {name!r} like the file")
    if repository:
        options["repository"] = repository
    return parse(options, str(path))


def names(directory: Path) -> List[str]:
    """The names of all job files."""
    return sorted(path.stem for path in directory.glob("*.json"))


def repositories(directory: Path) -> List[Repository]:
    """Those of all job files, and the default one."""
    paths = {repository_at(None).path}
    for name in names(directory):
        # A file that is not valid must not hide the backups of the others.
        with contextlib.suppress(BackupError):
            paths.add(repository_at(load(directory, name).settings.repository).path)
    return [Repository(path) for path in sorted(paths)]


def _names_of(options: Type[Any]) -> List[str]:
    return [field.name for field in dataclasses.fields(options)]


def _only(options: Dict[str, Any], names: List[str]) -> Dict[str, Any]:
    return {key: value for key, value in options.items() if key in names}


def _at(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem
