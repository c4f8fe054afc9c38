# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Docker engine: the few questions and orders that backups need, through its Python library."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ..decoding import did_you_mean
from ..errors import SourceError, UsageError, in_one_line
from ..interrupts import held_back
from ..optional import optional_module
from .container import Container, Decoder

# Longer than an engine needs for anything but a stop, which gets its own patience on top.
_TIMEOUT = 60
_CHUNK = 1 << 20
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_SHORT_ID = re.compile(r"[0-9a-f]{12,64}")
_LONGEST_MESSAGE = 300
_SCHEMES = ("unix", "tcp", "http", "https", "ssh")


class Daemon:
    """A connection to a Docker engine, as a context manager.

    Without docker_host it is the one that DOCKER_HOST names, else the socket of this host. Raises UsageError for an
    address that is none, SourceError when the library is missing, the engine does not answer or refuses.
    """

    def __init__(self, docker_host: Optional[str] = None) -> None:
        self.docker_host = docker_host
        address = docker_host or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self.address = _without_secrets(address)
        self.is_local = address.startswith("unix://")
        self._library = optional_module("docker")
        if not self._library:
            raise SourceError(
                "the Python library docker, which talks to the Docker engine, is missing for this Python; "
                "install python3-docker, or docker with pip"
            )
        environment = {**os.environ, "DOCKER_HOST": address}
        with self._errors():
            arguments = self._library.utils.kwargs_from_env(environment=environment)
            self._client = self._library.APIClient(**arguments, version="auto", timeout=_TIMEOUT)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            self._client.close()

    def find(self, wanted: str) -> Container:
        """The container with exactly this name, or this id; of an id the first 12 digits are enough.

        Raises SourceError when there is none, or more than one.
        """
        if not _NAME.fullmatch(wanted):
            raise UsageError(f"container {wanted!r} is neither the name nor the id of a container")
        known = self._names()
        found = [identifier for identifier, names in known.items() if _is_meant(wanted, identifier, names)]
        if not found:
            hint = did_you_mean(wanted, sorted(name for names in known.values() for name in names))
            raise SourceError(f"there is no container {wanted} at {self.address}{hint}")
        if len(found) > 1:
            meant = ", ".join(f"{'/'.join(known[identifier])} ({identifier[:12]})" for identifier in found)
            raise SourceError(f"container {wanted} can mean {meant}; give the whole name or id")
        return self.look(found[0])

    def look(self, identifier: str) -> Container:
        """The container with this whole id as it is now.

        Raises NoContainerError when it is no more.
        """
        with self._errors():
            try:
                return Container.of(self._client.inspect_container(identifier))
            except self._library.errors.NotFound as error:
                raise NoContainerError(f"container {identifier[:12]} is not there any more") from error

    def pause(self, container: Container) -> None:
        """Freeze all processes of the container."""
        with self._errors():
            self._client.pause(container.id)

    def unpause(self, container: Container) -> None:
        """Let them go on."""
        with self._errors():
            self._client.unpause(container.id)

    def stop(self, container: Container, patience: int) -> None:
        """Have the container end its work; what does not within so many seconds is killed."""
        with self._errors():
            self._client.stop(container.id, timeout=patience)

    def start(self, container: Container) -> None:
        """Start a stopped container."""
        with self._errors():
            self._client.start(container.id)

    def path_status(self, container: Container, path: str) -> Optional[Dict[str, Any]]:
        """What the engine tells of a file in the container (name, size, mode), None where there is none."""
        try:
            with self._archive(container, path) as (_unused, status):
                return status
        except _NoSuchFileError:
            return None

    @contextlib.contextmanager
    def archive(self, container: Container, path: str) -> Iterator[Iterator[bytes]]:
        """A tar of a file or directory in the container, in chunks, as the engine makes it."""
        try:
            with self._archive(container, path) as (chunks, _unused):
                yield chunks
        except _NoSuchFileError:
            raise SourceError(f"there is no {path} in container {container.name}") from None

    @contextlib.contextmanager
    def _archive(self, container: Container, path: str) -> Iterator[Tuple[Iterator[bytes], Dict[str, Any]]]:
        with self._errors():
            try:
                chunks, status = self._client.get_archive(container.id, path, chunk_size=_CHUNK)
            except self._library.errors.NotFound as error:
                raise _NoSuchFileError from error
        try:
            yield self._guarded(chunks), status if isinstance(status, dict) else {}
        finally:
            # Ends the transfer where nobody wants the rest.
            chunks.close()

    def create(
        self, name: str, image: str, *, network: str, port: int, directory: Path, at: Sequence[str]
    ) -> Container:
        """A new container of an image with a directory of this host, as this user.

        Its port is published to a free one of the loopback interface. Raises SourceError when the image is not there,
        as nothing is pulled, or the directory, as for an engine with other files than this host.
        """
        with self._errors():
            host = self._client.create_host_config(
                # Unlike binds, they are refused where the engine does not see the directory.
                mounts=[self._library.types.Mount(place, str(directory), type="bind") for place in at],
                network_mode=network,
                port_bindings={port: ("127.0.0.1",)},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            )
            user = f"{os.geteuid()}:{os.getegid()}"
            made = self._client.create_container(image, name=name, ports=[port], user=user, host_config=host)
            return self.look(str(made["Id"]))

    def remove(self, name: str) -> None:
        """Kill and remove a container that this process has made, with its anonymous volumes."""
        with self._errors(), contextlib.suppress(self._library.errors.NotFound):
            self._client.remove_container(name, force=True, v=True)

    def create_network(self, name: str) -> None:
        """A network from which packets find no way out of this host."""
        options = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
        with self._errors():
            self._client.create_network(name, driver="bridge", options=options)

    def remove_network(self, name: str) -> None:
        """Remove a network that this process has made."""
        with self._errors(), contextlib.suppress(self._library.errors.NotFound):
            self._client.remove_network(name)

    def last_words(self, container: Container) -> str:
        """The last line that the container has printed."""
        with self._errors():
            printed: bytes = self._client.logs(container.id, tail=1)
            return in_one_line(printed.decode(errors="replace"))[:_LONGEST_MESSAGE]

    def _names(self) -> Dict[str, List[str]]:
        """Names of all containers by id."""
        with self._errors():
            listed = Decoder(self._client.containers(all=True))
        return {
            entry.text("Id"): [name.lstrip("/") for name in entry.texts("Names") if name.count("/") == 1]
            for entry in listed.items()
        }

    def _guarded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        with self._errors():
            yield from chunks

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of the library and of what it is built on become one sentence, without the address as it was given.

        Signals wait for the end of the call: in the middle of it they would leave locks of the library locked.
        """
        requests: Any = optional_module("requests")
        paramiko: Any = optional_module("paramiko")
        # What it raises are no errors of the system.
        refused_by_ssh = (paramiko.SSHException,) if paramiko else ()
        with held_back():
            try:
                yield
            except self._library.errors.APIError as error:
                raise SourceError(f"the Docker engine at {self.address} refuses: {_explanation(error)}") from error
            except self._library.errors.DockerException as error:
                raise SourceError(f"the Docker engine at {self.address} cannot be used: {_reason(error)}") from error
            except (requests.RequestException, OSError, ValueError, *refused_by_ssh) as error:
                raise SourceError(f"the Docker engine at {self.address} does not answer: {_reason(error)}") from error


class NoContainerError(SourceError):
    """A container was removed."""


class _NoSuchFileError(Exception):
    """The container has no file of this name."""


def _is_meant(wanted: str, identifier: str, names: List[str]) -> bool:
    return wanted in names or bool(_SHORT_ID.fullmatch(wanted) and identifier.startswith(wanted))


def _without_secrets(address: str) -> str:
    """The address for messages: a user name, password or query in it is not shown."""
    try:
        parts = urllib.parse.urlsplit(address)
        if parts.password:
            raise UsageError("docker_host has a password in it, which would be seen by others; use TLS or ssh keys")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise UsageError("docker_host is not an address") from None
    if parts.scheme not in _SCHEMES:
        raise UsageError("docker_host is not an address; it begins with {}://".format("://, ".join(_SCHEMES)))
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _explanation(error: Any) -> str:
    return in_one_line(str(error.explanation or "no reason given"))[:_LONGEST_MESSAGE]


def _reason(error: BaseException) -> str:
    """What the system said at the bottom of it; texts of the libraries may repeat the address with its secrets."""
    cause: Optional[BaseException] = error
    while cause:
        for inner in [cause, *cause.args, *getattr(cause, "args", ())[1:]]:
            if isinstance(inner, OSError) and inner.strerror:
                return inner.strerror
        if "paramiko" in str(cause):
            return "the Python library paramiko, which ssh needs, is missing for this Python; install python3-paramiko"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
