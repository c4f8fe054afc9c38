# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands about which backups stay: prune, protect, unprotect."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import List, Optional, Tuple

from .. import jobs
from ..errors import BackupError, Interrupted, UsageError, sentence
from ..operations.protect import set_protection
from ..operations.prune import Plan, prune_job
from ..operations.simulate import simulate
from ..repository.repository import JobDirectory
from ..repository.retention import Decision, Policy, local, zone_of
from ..timeline import ASCII, UNICODE, timeline
from .common import Told, repository_of, warning_lines

_Target = Tuple[JobDirectory, Policy]


def prune(options: argparse.Namespace) -> Told:
    """Remove, or with dry_run or simulate only tell of, the backups that the policies do not keep.

    Of several jobs, one that cannot be pruned does not stop the others and is told of at the end.
    """
    if options.every is not None and options.simulate is None:
        raise UsageError("--every has a meaning only with --simulate")
    targets, failures = _targets(options)
    only_told = options.dry_run or options.simulate is not None
    plans: List[Plan] = []
    lines: List[str] = []
    for target in targets:
        try:
            made = _made(target, options)
        except (Interrupted, UsageError):
            # What is wrong with the command line is so for all.
            raise
        except (BackupError, OSError) as error:
            if options.job:
                raise
            failures.append(sentence(error) if isinstance(error, OSError) else str(error))
            continue
        plans.append(made)
        lines += [*warning_lines(made.warnings), *_sentences(made, only_told)]
        if only_told and made.decisions and sys.stdout.isatty():
            lines += ["", _picture(made, target[1]), ""]
    found = [made.to_json() for made in plans]
    keep, remove = ([entry for made in found for entry in made[name]] for name in ("keep", "remove"))
    warnings = [warning for made in plans for warning in made.warnings]
    changed = bool(remove) and not only_told
    told = {"changed": changed, "keep": keep, "remove": remove, "warnings": warnings, "failures": failures}
    nothing = "no job was pruned" if failures else "no job has a policy that says what to keep"
    return Told(told, "\n".join(lines) or nothing, "; ".join(failures) or None)


def protect(options: argparse.Namespace) -> Told:
    """Protect a backup from being pruned."""
    return _protection(options, wanted=True, reason=options.reason)


def unprotect(options: argparse.Namespace) -> Told:
    """Leave a backup to the policy again."""
    return _protection(options, wanted=False, reason=None)


def policy_of(options: argparse.Namespace, name: str) -> Optional[Policy]:
    """The policy of the job's file; None without a file, or without a rule in it."""
    if name not in jobs.names(options.jobs_directory):
        return None
    retention = jobs.load(options.jobs_directory, name).retention
    return None if retention.is_empty() else retention


def _protection(options: argparse.Namespace, wanted: bool, reason: Optional[str]) -> Told:
    result = set_protection(repository_of(options).job(options.job), options.id, wanted=wanted, reason=reason)
    word = "protected" if wanted else "not protected"
    return Told(result.to_json(), f"{options.job}: {options.id} is {'now' if result.changed else 'already'} {word}")


def _made(target: _Target, options: argparse.Namespace) -> Plan:
    if options.simulate is not None:
        return simulate(*target, options.simulate, options.every)
    return prune_job(*target, options.dry_run)


def _targets(options: argparse.Namespace) -> Tuple[List[_Target], List[str]]:
    """The jobs to prune, and what is wrong with the files of others."""
    given = _given_policy(options)
    if options.job:
        policy = given or policy_of(options, options.job)
        if policy is None:
            raise UsageError(f"no policy says what to keep of job {options.job}; give one, such as --keep-daily 7")
        return [(repository_of(options).job(options.job), policy)], []
    if given:
        return [(directory, given) for directory in repository_of(options).jobs()], []
    targets: List[_Target] = []
    failures: List[str] = []
    for name in jobs.names(options.jobs_directory):
        try:
            job = jobs.load(options.jobs_directory, name, options.repository)
            # One that never ran has nothing to remove.
            if not job.retention.is_empty() and os.path.lexists(job.directory.path):
                targets.append((job.directory, job.retention))
        except Interrupted:
            raise
        except BackupError as error:
            failures.append(str(error))
    return targets, failures


def _given_policy(options: argparse.Namespace) -> Optional[Policy]:
    names = [field.name for field in dataclasses.fields(Policy)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not given:
        return None
    policy = Policy(**given)
    # Also where there is no job yet to try it on.
    policy.check_rules()
    return policy


def _sentences(made: Plan, only_told: bool) -> List[str]:
    lines = [_sentence(made.job, decision, only_told) for decision in made.decisions]
    verb = "would be removed" if only_told else "removed"
    return [*lines, f"{made.job}: {len(made.keep)} kept, {len(made.remove)} {verb}"]


def _sentence(job: str, decision: Decision, only_told: bool) -> str:
    verb = "stays" if decision.keep else "goes" if only_told else "is removed"
    return f"{job}: {decision.id} {verb}: {'; '.join(decision.reasons)}"


def _picture(made: Plan, policy: Policy) -> str:
    zone = zone_of(policy.timezone)
    signs = UNICODE if (sys.stdout.encoding or "").lower().startswith("utf") else ASCII
    return timeline(
        [(local(one.time, zone), one.keep) for one in made.decisions], signs, colored="NO_COLOR" not in os.environ
    )
