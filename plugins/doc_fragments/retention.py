# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What to keep."""

    DOCUMENTATION = r"""
options:
  keep_last:
    description: Keep so many of the newest backups. V(-1), here and in the next five options, means all of them.
    type: int
    default: 0
  keep_hourly:
    description:
      - Keep the newest backup of each of so many hours in which there is one. While slots are left, the oldest backup
        of all is kept too, in these five options.
    type: int
    default: 0
  keep_daily:
    description: Keep the newest backup of each of so many days in which there is one.
    type: int
    default: 0
  keep_weekly:
    description: Keep the newest backup of each of so many ISO weeks in which there is one.
    type: int
    default: 0
  keep_monthly:
    description: Keep the newest backup of each of so many months in which there is one.
    type: int
    default: 0
  keep_yearly:
    description: Keep the newest backup of each of so many years in which there is one.
    type: int
    default: 0
  keep_within:
    description:
      - Keep all backups that are younger than this, seen from the newest good one.
      - A duration of calendar years, months, days, and of hours, as V(1y6m7d12h).
    type: str
  keep_within_hourly:
    description: Like O(keep_within), but only the newest backup of each hour.
    type: str
  keep_within_daily:
    description: Like O(keep_within), but only the newest backup of each day.
    type: str
  keep_within_weekly:
    description: Like O(keep_within), but only the newest backup of each ISO week.
    type: str
  keep_within_monthly:
    description: Like O(keep_within), but only the newest backup of each month.
    type: str
  keep_within_yearly:
    description: Like O(keep_within), but only the newest backup of each year.
    type: str
  keep_days:
    description: Keep all backups that are younger than so many days, seen from now.
    type: float
    default: 0.0
  keep_min_good:
    description: So many of the newest good backups stay whatever the other options say. At least 1.
    type: int
    default: 1
  timezone:
    description:
      - Where days, weeks, months and years begin, as V(Europe/Berlin).
      - Other than V(UTC) needs Python 3.9 and the timezone data on the target.
    type: str
    default: UTC
notes:
  - A backup stays when one of the options keeps it. They mean what they mean in restic 0.16 and newer.
  - Only backups that were verified, when they were made or later, take the slots of these options. One that was never
    verified or is damaged stays for as long as it would have a slot if it counted, never at the cost of a better one.
  - Protected backups, those with a time in the future, and those that an increment builds on always stay. As long as
    no backup of a job is known to be good, all of them stay.
"""
