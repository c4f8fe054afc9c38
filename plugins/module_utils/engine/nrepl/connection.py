# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection to a server on which every call has to be over by a deadline."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Callable, Iterator, List, Tuple, Union

from .address import DEFAULT_HOST, Address
from .deadline import Deadline, OutOfTime

_PIECE = 1 << 16

_Found = Tuple[socket.AddressFamily, Tuple[Any, ...]]


class Connection:
    """Bytes to a server and from it, over TCP, TLS or a unix socket. The address is one that knows its port.

    All calls raise OSError, and OutOfTime when the deadline passes.
    """

    def __init__(self, address: Address, deadline: Deadline) -> None:
        if address.socket is not None:
            self._socket = _connected(socket.AF_UNIX, address.socket, deadline.left())
            return
        wrap = _tls(address.tls_keys, deadline) if address.tls_keys is not None else None
        plain = _connected_to_host(address.host or DEFAULT_HOST, int(address.port or 0), deadline)
        self._socket = wrap(plain) if wrap else plain

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            with _in_time(self._socket, deadline):
                rest = rest[self._socket.send(rest[:_PIECE]) :]

    def receive(self, deadline: Deadline) -> bytes:
        """What has arrived, at least a byte; nothing at the end of the stream."""
        with _in_time(self._socket, deadline):
            return self._socket.recv(_PIECE)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@contextlib.contextmanager
def _in_time(plain: socket.socket, deadline: Deadline) -> Iterator[None]:
    plain.settimeout(deadline.left())
    try:
        yield
    except socket.timeout as error:
        raise OutOfTime from error


def _connected_to_host(host: str, port: int, deadline: Deadline) -> socket.socket:
    """The first of the addresses of the host that answers; each gets its share of the time."""
    found = _look_up(host, port, deadline)
    for number, (family, place) in enumerate(found, 1):
        try:
            return _connected(family, place, deadline.left() / (len(found) - number + 1))
        except (OSError, OutOfTime):
            if number == len(found):
                raise
    raise OSError(f"the host {host} has no address")


def _connected(family: socket.AddressFamily, place: Any, seconds: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        with _in_time(made, Deadline(seconds)):
            made.connect(place)
    except BaseException:
        made.close()
        raise
    return made


def _look_up(host: str, port: int, deadline: Deadline) -> List[_Found]:
    """In a thread, which is left behind where it hangs: the system's resolver knows no deadline."""
    answers: List[Union[List[_Found], OSError]] = []

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.append([(socket.AddressFamily(entry[0]), entry[4]) for entry in found])
        except OSError as error:
            answers.append(error)
        except UnicodeError:
            answers.append(OSError(f"{host} is not a name of a host"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not answers:
        raise OutOfTime
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def _tls(keys: str, deadline: Deadline) -> Callable[[socket.socket], socket.socket]:
    """What makes a connection a secure one. The keys are read here: where they are wrong, nobody is connected to."""
    import ssl  # noqa: PLC0415 - loaded when needed

    from .tls import client_context  # noqa: PLC0415 - loaded when needed

    context = client_context(keys)

    def wrap(plain: socket.socket) -> socket.socket:
        with contextlib.ExitStack() as undoing:
            undoing.callback(plain.close)
            secure = context.wrap_socket(plain, do_handshake_on_connect=False)
            undoing.callback(secure.close)
            try:
                with _in_time(secure, deadline):
                    secure.do_handshake()
            except ssl.SSLCertVerificationError as error:
                raise OSError(f"the authority in {keys} does not vouch for it: {error.verify_message}") from error
            except ssl.SSLError as error:
                raise OSError(f"the TLS handshake failed: {error.reason or 'it closed the connection'}") from error
            undoing.pop_all()
            return secure

    return wrap
