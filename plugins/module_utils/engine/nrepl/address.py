# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an nREPL server listens."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from typing import Optional

from ..errors import NoConnectionError, UsageError, sentence

DEFAULT_HOST = "127.0.0.1"
# What servers write their port to, in the directory they were started in.
PORT_FILE = ".nrepl-port"

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}")
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_LAST_PORT = 65535
_LONGEST_SOCKET = 107
_LONGEST_PORT_FILE = 64


@dataclasses.dataclass(frozen=True)
class Address:
    """A TCP port, or the file that tells it, or a unix socket: exactly one of these.

    host is for ports, and 127.0.0.1 unless given. tls_keys is a file with the certificate of the authority, the own
    certificate and its private key, for a server that wants TLS.
    """

    host: Optional[str] = None
    port: Optional[int] = None
    socket: Optional[str] = None
    port_file: Optional[str] = None
    tls_keys: Optional[str] = None

    def check(self) -> None:
        """Raise UsageError unless this can be an address."""
        given = [name for name in ("port", "socket", "port_file") if getattr(self, name) is not None]
        if len(given) != 1:
            which = f"not {' and '.join(given)} together" if given else "and none of them is given"
            raise UsageError(f"a server is named by port, socket or port_file, {which}")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise UsageError(f"host {self.host!r} is not a name or address of a host")
        if self.port is not None and not 1 <= self.port <= _LAST_PORT:
            raise UsageError(f"port {self.port} is out of range; give 1 to {_LAST_PORT}")
        if self.socket is not None:
            self._check_socket(self.socket)

    def _check_socket(self, path: str) -> None:
        if self.host is not None or self.tls_keys is not None:
            raise UsageError("host and tls_keys are for servers on a port, not for those on a socket")
        if not path or "\0" in path or len(os.fsencode(path)) > _LONGEST_SOCKET:
            raise UsageError(f"socket {path!r} is not a path of 1 to {_LONGEST_SOCKET} bytes, as a socket can have")

    def located(self) -> Address:
        """The same with the port that is in port_file.

        Raises NoConnectionError when the file does not tell one.
        """
        return self if self.port_file is None else dataclasses.replace(self, port=_read_port(self.port_file))

    def __str__(self) -> str:
        if self.socket is not None:
            return self.socket
        if self.port is None:
            return f"the port in {self.port_file}"
        host = self.host or DEFAULT_HOST
        told = f", as {self.port_file} says" if self.port_file is not None else ""
        return f"[{host}]:{self.port}{told}" if ":" in host else f"{host}:{self.port}{told}"


def _read_port(path: str) -> int:
    """What is in the file is never told: others may have put a link to a secret there."""
    try:
        # A pipe, which nobody may ever write to, is not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            content = os.read(descriptor, _LONGEST_PORT_FILE + 1) if is_file else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        told = f"{path} is a link, which is not followed" if os.path.islink(path) else sentence(error)
        raise NoConnectionError(f"no port of an nREPL server is known: {told}") from error
    if not is_file:
        raise NoConnectionError(f"no port of an nREPL server is known: {path} is not a file")
    if not content.strip():
        raise NoConnectionError(f"no port of an nREPL server is known: {path} is empty, as for a server on a socket")
    if not _PORT.fullmatch(content.strip()) or int(content) > _LAST_PORT:
        raise NoConnectionError(f"no port of an nREPL server is known: {path} does not hold the number of a port")
    return int(content)
