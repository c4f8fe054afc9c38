# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to a file beside its content: owner, mode, time, extended attributes, which hold its ACL too."""

from __future__ import annotations

import errno
import os
import stat
from typing import Set, Tuple

# What a file system or the system itself has no place for, or keeps from this user.
_NOT_KEPT = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL)

Stamp = Tuple[int, int, int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """What changes with every write through the system; the first two tell which file it is."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def give(descriptor: int, status: os.stat_result) -> None:
    """Owner, where this is root, mode and time of modification."""
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))


def give_link(directory: int, name: str, status: os.stat_result) -> None:
    """The same for a link in an open directory; it has no mode."""
    if os.geteuid() == 0:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=directory, follow_symlinks=False)


def copy_attributes(source: int, target: int) -> Set[str]:
    """Give target the extended attributes of source, and no others; returns the names of those it cannot have."""
    wanted = _listed(source)
    lost = set()
    for name in sorted(wanted):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno == errno.ENODATA:
                continue
            if error.errno not in _NOT_KEPT:
                raise
            lost.add(name)
    for name in _listed(target).difference(wanted):
        if name.startswith(("user.", "system.posix_acl_")):
            os.removexattr(target, name)
    return lost


def _listed(descriptor: int) -> Set[str]:
    try:
        return set(os.listxattr(descriptor))
    except OSError as error:
        if error.errno in _NOT_KEPT:
            return set()
        raise
