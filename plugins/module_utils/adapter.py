# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between Ansible and the engine: the arguments modules share, one place where errors become failures, diffs."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

from ansible.module_utils.basic import AnsibleModule

from .engine import jobs
from .engine.errors import BackupError, sentence
from .engine.interrupts import end_work_on_signals
from .engine.operations import backup

_SHORTEST_SECRET = 8

REPOSITORY_ARGUMENTS: Dict[str, Any] = {"repository": {"type": "path"}}

RETENTION_ARGUMENTS: Dict[str, Any] = {
    "keep_last": {"type": "int", "default": 0},
    "keep_hourly": {"type": "int", "default": 0},
    "keep_daily": {"type": "int", "default": 0},
    "keep_weekly": {"type": "int", "default": 0},
    "keep_monthly": {"type": "int", "default": 0},
    "keep_yearly": {"type": "int", "default": 0},
    "keep_within": {"type": "str"},
    "keep_within_hourly": {"type": "str"},
    "keep_within_daily": {"type": "str"},
    "keep_within_weekly": {"type": "str"},
    "keep_within_monthly": {"type": "str"},
    "keep_within_yearly": {"type": "str"},
    "keep_days": {"type": "float", "default": 0.0},
    "keep_min_good": {"type": "int", "default": 1},
    "timezone": {"type": "str", "default": "UTC"},
}

NREPL_ARGUMENTS: Dict[str, Any] = {
    "host": {"type": "str"},
    "port": {"type": "int"},
    "socket": {"type": "path"},
    "port_file": {"type": "path"},
    # A path, not what is in it.
    "tls_keys": {"type": "path", "no_log": False},
}

BACKUP_ARGUMENTS: Dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "compression": {"type": "str", "default": "zstd", "choices": ["zstd", "gzip", "none"]},
    "compression_level": {"type": "int"},
    "verify": {"type": "bool", "default": True},
    "min_age_hours": {"type": "float", "default": 0.0},
    "skip_unchanged": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
    **REPOSITORY_ARGUMENTS,
    **RETENTION_ARGUMENTS,
}


def finish(module: AnsibleModule, work: Callable[[], Dict[str, Any]]) -> None:
    """Do the work and end the module with its result, or with the sentence of its error."""
    end_work_on_signals()
    try:
        result = work()
    except BackupError as error:
        module.fail_json(msg=str(error), exit_code=error.exit_code)
    except OSError as error:
        module.fail_json(msg=sentence(error), exit_code=BackupError.exit_code)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


def show_short_code(module: AnsibleModule, name: str) -> None:
    """Let an option that is hidden be seen where it is very short: else it would be hidden all over the results."""
    code = module.params[name]
    if code is not None and len(code) < _SHORTEST_SECRET:
        module.no_log_values.discard(code)


def run_backup(module: AnsibleModule, kind: str) -> Dict[str, Any]:
    """Run, or in check mode predict, the job that the parameters of a backup module describe."""
    options = {key: value for key, value in module.params.items() if value is not None}
    job = jobs.parse({"type": kind, **options})
    outcome = backup.predict(job) if module.check_mode else backup.back_up(job)
    result = outcome.to_json()
    if outcome.changed and module._diff:
        previous = outcome.previous.to_json() if outcome.previous else None
        result["diff"] = {"before": essence(previous), "after": essence(outcome.backup)}
    return result


def essence(manifest: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """What a diff shows of a backup: sizes and hashes, never content."""
    if manifest is None:
        return {}
    return {
        "id": manifest["id"],
        "size": manifest["summary"]["size"],
        "repo_size": manifest["summary"]["repo_size"],
        "sha256": {record["path"]: record["sha256"] for record in manifest["files"]},
    }
