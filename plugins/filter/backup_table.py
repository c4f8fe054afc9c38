# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turns the registered results of a loop over backup jobs into a table for people."""

from __future__ import annotations

from typing import Any, Dict, List

from ansible_collections.embedded.db_backup.plugins.module_utils.engine.tables import (
    ratio_in_words,
    size_in_words,
    table,
)

DOCUMENTATION = r"""
name: backup_table
short_description: Results of backup jobs as a table
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Makes a table of the registered results of a loop over jobs with a backup module, one line per job.
options:
  _input:
    description: The C(results) of a registered loop whose items have a C(name).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Back up some jobs
  embedded.db_backup.lmdb_backup:
    name: "{{ item.name }}"
    path: "{{ item.path }}"
  loop: "{{ my_jobs }}"
  register: done

- name: Show what became of them
  ansible.builtin.debug:
    msg: "{{ done.results | embedded.db_backup.backup_table }}"
"""

RETURN = r"""
_value:
  description: The lines of the table, the header first.
  type: list
  elements: str
"""

_HEADER = ["JOB", "RESULT", "SIZE", "RATIO", "DURATION", "ID"]


def backup_table(results: List[Dict[str, Any]]) -> List[str]:
    return table(_HEADER, [_row(result) for result in results]).splitlines()


def _row(result: Dict[str, Any]) -> List[str]:
    name = str(result["item"]["name"])
    backup = result.get("backup")
    if result.get("failed") or not backup:
        return [name, "failed", "-", "-", "-", "-"]
    summary = backup["summary"]
    told = {"complete": "ok"}.get(backup["status"], backup["status"])
    duration = "-" if summary["duration_ms"] is None else f"{summary['duration_ms'] / 1000:.1f} s"
    if result.get("skipped"):
        # The backup is an earlier one.
        told, duration = "skipped", "-"
    size, ratio = size_in_words(summary["size"]), ratio_in_words(summary["size"], summary["repo_size"])
    return [name, told, size, ratio, duration, backup["id"]]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        return {"backup_table": backup_table}
