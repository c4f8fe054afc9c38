# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command that takes backup files of other tools: adopt."""

from __future__ import annotations

import argparse
import re
from typing import List, Optional

from ..errors import UsageError
from ..operations.adopt import Adopted, Adoption, predict
from ..operations.adopt import adopt as take
from ..paths import check_job_name
from ..sources.file.moments import MTIME, NAME
from ..tables import size_in_words
from ..terminal import ProgressBar
from .common import Told, repository_of, warning_lines

_TIMES = {MTIME: "when it was modified", NAME: "the date in its name"}


def adopt(options: argparse.Namespace) -> Told:
    """Take the files into the repository, or with dry_run tell what would be taken."""
    options.job = options.job or _job_of(options.pattern)
    directory = repository_of(options).job(options.job)
    if options.dry_run:
        adoption = predict(directory, options.directory, options.pattern)
    else:
        with ProgressBar("adopting", options.quiet) as progress:
            adoption = take(directory, options.directory, options.pattern, progress)
    changed = bool(adoption.adopted) and not options.dry_run
    told = {"changed": changed, **adoption.to_json()}
    return Told(told, _text(adoption, options.dry_run), _failure(adoption, options.dry_run))


def _job_of(pattern: str) -> str:
    name = re.split(r"[-*?\[]", pattern, maxsplit=1)[0]
    try:
        return check_job_name(name)
    except UsageError:
        raise UsageError(
            f"the pattern {pattern!r} does not begin with the name of a job; give one with --job"
        ) from None


def _text(adoption: Adoption, only_told: bool) -> str:
    lines = warning_lines(adoption.warnings)
    for file, backup_id in adoption.already.items():
        lines.append(f"{adoption.job}: {file} was adopted before, as {backup_id}")
    for one in adoption.adopted:
        lines += _lines(adoption.job, one, only_told)
    verb = "would be adopted" if only_told else "adopted"
    counts = [f"{len(adoption.adopted)} {verb}"]
    counts += [f"{len(adoption.already)} adopted before"] if adoption.already else []
    counts += [f"{len(adoption.refused)} refused"] if adoption.refused else []
    return "\n".join([*lines, f"{adoption.job}: {', '.join(counts)}"])


def _lines(job: str, one: Adopted, only_told: bool) -> List[str]:
    verb = "would become" if only_told else "is now"
    first = f"{job}: {one.file}, {one.kind}, {size_in_words(one.size)}, {verb} {one.id}, {_TIMES[one.time_from]}"
    return [
        first,
        *(f"  verified: {finding}" for finding in one.verified),
        *(f"  not verified: {finding}" for finding in one.not_verified),
    ]


def _failure(adoption: Adoption, only_told: bool) -> Optional[str]:
    if not adoption.refused:
        return None
    verb = "would not be" if only_told else "were not"
    told = [one.reason if one.file in one.reason else f"{one.file}: {one.reason}" for one in adoption.refused]
    files = len(adoption.refused) + len(adoption.adopted) + len(adoption.already)
    return f"{len(adoption.refused)} of {files} files {verb} adopted: {'; '.join(told)}"
