# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of the units: templates that all jobs share, and a drop-in with what is of one job alone."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from ..engine.jobs import Job
from .layout import Layout

BACKUP, DRILL = "db-backup", "db-backup-drill"
_NOTE = "# Installed by the role embedded.db_backup.backup, which replaces it.\n"
_WORDS = {BACKUP: "Backup", DRILL: "Restore drill"}
_COMMANDS = {BACKUP: "run %i --unattended", DRILL: "drill %i"}

Section = Tuple[str, Sequence[Tuple[str, str]]]

# What a job that works on files needs to be root for: children that become the owner of the data or nobody, in a root
# of their own, and files of any owner.
_CAPABILITIES = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_CHROOT"
_SANDBOX = (
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", _CAPABILITIES),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "read-only"),
    ("PrivateTmp", "yes"),
    ("PrivateDevices", "yes"),
    ("PrivateNetwork", "yes"),
    ("IPAddressDeny", "any"),
    ("RestrictAddressFamilies", "AF_UNIX"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectProc", "invisible"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("KeyringMode", "private"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service chroot"),
    ("SystemCallErrorNumber", "EPERM"),
)
# A socket of an engine, a server at an address, or programs of the user.
_NETWORK = (
    ("PrivateNetwork", "no"),
    ("IPAddressDeny", ""),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
)
# The files of a container are anywhere below the directories of its engine, or in the root of its first process.
_CONTAINER = (
    ("CapabilityBoundingSet", f"{_CAPABILITIES} CAP_SYS_PTRACE"),
    ("ProtectSystem", "full"),
    ("ProtectHome", "no"),
    ("ProtectProc", "default"),
)
# Whoever halts an application looks for it among all processes, and its guard must have the time to let it go on.
_HALTING = (
    ("CapabilityBoundingSet", f"{_CAPABILITIES} CAP_SYS_PTRACE"),
    ("ProtectProc", "default"),
    ("TimeoutStopSec", "5min"),
)
# Whoever kills all processes of a run at once, as systemd does in the end, kills its guard too.
_THAW = "thaw %i"
# The server of a drill is a program of its own kind.
_SERVER = (("MemoryDenyWriteExecute", "no"),)


def templates(layout: Layout) -> Dict[Path, str]:
    """The units that all jobs share."""
    units: Dict[str, List[Section]] = {}
    for name, word in _WORDS.items():
        sandbox = _SANDBOX if layout.is_system else ()
        service: List[Section] = [
            ("Unit", [("Description", f"{word} of job %i"), ("OnFailure", f"{name}-alert@%i.service")]),
            ("Service", [*_service(layout, _COMMANDS[name]), *sandbox]),
        ]
        units[f"{name}@.service"] = service
        units[f"{name}@.timer"] = [
            ("Unit", [("Description", f"{word} of job %i, in time")]),
            ("Timer", [("Persistent", "yes"), ("FixedRandomDelay", "yes"), ("AccuracySec", "1s")]),
            ("Install", [("WantedBy", "timers.target")]),
        ]
        told = "alert %i" + (" --drill" if name == DRILL else "")
        alert: List[Section] = [
            ("Unit", [("Description", f"{word} of job %i failed: call who is to know")]),
            ("Service", _service(layout, told)),
        ]
        units[f"{name}-alert@.service"] = alert
    return {layout.units / name: _text(sections) for name, sections in units.items()}


def drop_ins(layout: Layout, job: Job) -> Dict[Path, str]:
    """What is of this job alone."""
    files: Dict[Path, Sequence[Section]] = {}
    for name in timers(job):
        event = job.routine.schedule if name == BACKUP else job.routine.drill_schedule
        delay = ("RandomizedDelaySec", job.routine.unit.random_delay)
        files[_place(layout, name, job, "timer")] = [("Timer", [("OnCalendar", event or ""), delay])]
    for name in _WORDS:
        files[_place(layout, name, job, "service")] = _of_service(layout, name, job)
        if job.routine.unit.user and layout.is_system:
            files[_place(layout, f"{name}-alert", job, "service")] = [("Service", [("User", job.routine.unit.user)])]
    return {path: _text(sections) for path, sections in files.items()}


def timers(job: Job) -> List[str]:
    """Which of the two timers the job has."""
    events = {BACKUP: job.routine.schedule, DRILL: job.routine.drill_schedule}
    return [name for name, event in events.items() if event]


def timer_units(job: Job) -> List[str]:
    """Their names."""
    return [f"{name}@{job.settings.name}.timer" for name in timers(job)]


def _of_service(layout: Layout, name: str, job: Job) -> List[Section]:
    unit, places = job.routine.unit, job.source.places
    needed = [job.directory.path, *(places if name == BACKUP else [])]
    order = [("RequiresMountsFor", " ".join(quoted(place) for place in needed))]
    if job.source.container:
        order.append(("After", "docker.service"))
    service = [
        ("Nice", str(unit.nice)),
        ("IOSchedulingClass", unit.io_class),
        ("MemoryMax", unit.memory_max),
        ("TimeoutStartSec", unit.time_limit),
    ]
    if (job.source.halts_application or job.source.container) and name == BACKUP:
        service.append(("ExecStopPost", _call(layout, _THAW)))
    if not layout.is_system:
        return [("Unit", order), ("Service", service)]
    if unit.user:
        service += [("User", unit.user), ("CapabilityBoundingSet", "")]
    writable = [job.directory.path.parent, *(_writable(place) for place in needed[1:])]
    service += [("ReadWritePaths", " ".join(quoted(place, "-") for place in dict.fromkeys(writable)))]
    if any(f"{place}/".startswith(("/tmp/", "/var/tmp/")) for place in writable):  # noqa: S108 - looked at, never used
        service.append(("PrivateTmp", "no"))
    if job.source.halts_application and name == BACKUP:
        service += [line for line in _HALTING if not (unit.user and line[0] == "CapabilityBoundingSet")]
    is_server = name == DRILL and bool(job.source.heartbeat_paths)
    if job.source.container:
        service += _CONTAINER
    if is_server:
        service += _SERVER
    calls = name == BACKUP and (job.routine.before or job.routine.after)
    if job.source.container or job.source.uses_network or is_server or calls:
        service += _NETWORK
    return [("Unit", order), ("Service", service)]


def _service(layout: Layout, command: str) -> Sequence[Tuple[str, str]]:
    return [("Type", "oneshot"), ("ExecStart", _call(layout, command)), ("UMask", "0077")]


def _call(layout: Layout, command: str) -> str:
    return f"{quoted(layout.command)} --jobs-directory {quoted(layout.jobs)} --quiet {command}"


def _writable(place: Path) -> Path:
    """A database makes locks and journals beside its file."""
    return place if place.is_dir() else place.parent


def _place(layout: Layout, name: str, job: Job, kind: str) -> Path:
    return layout.units / f"{name}@{job.settings.name}.{kind}.d" / "job.conf"


def _text(sections: Sequence[Section]) -> str:
    parts = [f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in lines) for name, lines in sections]
    return _NOTE + "\n" + "\n".join(parts)


def quoted(path: Path, prefix: str = "") -> str:
    """A path as one word of a unit, where it is not just letters."""
    text = prefix + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(sign in text for sign in " \t'\";") else text
