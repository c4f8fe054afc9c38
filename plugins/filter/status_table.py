# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turns what many hosts tell of their jobs into one table for people."""

from __future__ import annotations

from typing import Any, Dict, List

from ansible_collections.embedded.db_backup.plugins.module_utils.engine import times
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.tables import printable, size_in_words, table

DOCUMENTATION = r"""
name: status_table
short_description: The jobs of many hosts as one table
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Makes a table of what M(embedded.db_backup.backup_info) returned on several hosts, one line per job.
options:
  _input:
    description: The registered results by host. A host of which there is none did not answer.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the jobs of this host
  ansible.builtin.debug:
    msg: "{{ ({inventory_hostname: found} | embedded.db_backup.status_table).lines }}"
"""

RETURN = r"""
_value:
  description: The C(lines) of the table, the header first, and in C(problems) a sentence for each job that is not well.
  type: dict
"""

_HEADER = ["HOST", "JOB", "HEALTH", "LAST SUCCESS", "AGE", "ALLOWED", "SIZE", "TREND", "PROVEN RESTORABLE"]


def status_table(results: Dict[str, Any]) -> Dict[str, List[str]]:
    rows: List[List[str]] = []
    problems: List[str] = []
    for host, result in results.items():
        if not isinstance(result, dict) or "jobs" not in result:
            told = _reason(result)
            rows.append(
                [host, "-", "unreachable" if _is_unreachable(result) else "failed", *["-"] * (len(_HEADER) - 3)]
            )
            problems.append(printable(f"{host}: {told}"))
            continue
        for job in result["jobs"]:
            rows.append(_row(host, job))
            health = job["health"]
            if not health["good"]:
                reason = f": {health['reason']}" if health["reason"] else ""
                problems.append(printable(f"{host}: {job['name']} is {health['status']}{reason}"))
        if not result["jobs"]:
            rows.append([host, "-", "no jobs", *["-"] * (len(_HEADER) - 3)])
    return {"lines": table(_HEADER, rows).splitlines(), "problems": problems}


def _row(host: str, job: Dict[str, Any]) -> List[str]:
    success, proven = job["last_success"], job["proven_restorable"]
    at = age = "never"
    if success:
        at = success["at"][:16]
        age = times.age_in_words((times.now() - times.from_rfc3339(success["at"])).total_seconds())
    sizes = [backup["size"] for backup in job["backups"] if backup["size"] is not None]
    return [
        host,
        job["name"],
        job["health"]["status"],
        at,
        age,
        "-" if job["max_age_hours"] is None else f"{job['max_age_hours']:g} h",
        size_in_words(sizes[0] if sizes else None),
        "-" if job["trend"] is None else f"{job['trend']:+.1f} %",
        proven["at"][:16] if proven else "never",
    ]


def _is_unreachable(result: Any) -> bool:
    return not isinstance(result, dict) or bool(result.get("unreachable"))


def _reason(result: Any) -> str:
    told = result.get("msg") if isinstance(result, dict) else None
    return " ".join(str(told or "did not answer").split())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        return {"status_table": status_table}
