# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container as the Docker engine describes it. The description comes from outside and is read with distrust."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterator, List, Optional

from ..errors import SourceError


class Decoder:
    """A part of an answer of the engine; what is missing or of another type reads as empty."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: str) -> Decoder:
        return Decoder(self._value.get(key) if isinstance(self._value, dict) else None)

    def items(self) -> Iterator[Decoder]:
        """The entries of a list, or the values of an object."""
        value = list(self._value.values()) if isinstance(self._value, dict) else self._value
        return (Decoder(entry) for entry in value if entry is not None) if isinstance(value, list) else iter(())

    def keys(self) -> List[str]:
        """The names in an object."""
        return [str(key) for key in self._value] if isinstance(self._value, dict) else []

    def text(self, key: str) -> str:
        """A text in an object."""
        value = self[key]._value
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> List[str]:
        """The texts of a list in an object."""
        value = self[key]._value
        return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []

    def number(self, key: str) -> int:
        """A whole number in an object."""
        value = self[key]._value
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    def flag(self, key: str) -> bool:
        """True or false in an object."""
        return self[key]._value is True


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a container is: its name or id, and its engine. The latter may have secrets in it."""

    name: str
    docker_host: Optional[str] = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Mount:
    """A directory of the Docker host (source) that the container has at destination."""

    source: str
    destination: PurePosixPath


@dataclasses.dataclass(frozen=True)
class Container:
    """A container at one moment. pid is that of its first process on the Docker host, 0 when it does not run."""

    id: str
    name: str
    image: str
    image_id: str
    status: str
    is_paused: bool
    pid: int
    started_at: str
    is_removed_on_stop: bool
    environment: Dict[str, str] = dataclasses.field(repr=False)
    command: List[str] = dataclasses.field(repr=False)
    working_directory: str
    mounts: List[Mount]
    merged: Optional[Path]
    addresses: List[str]

    @classmethod
    def of(cls, answer: Any) -> Container:
        """Read the answer to an inspection."""
        found, state, config = Decoder(answer), Decoder(answer)["State"], Decoder(answer)["Config"]
        merged = found["GraphDriver"]["Data"].text("MergedDir")
        return cls(
            id=found.text("Id"),
            name=found.text("Name").lstrip("/"),
            image=config.text("Image"),
            image_id=found.text("Image"),
            status=state.text("Status") or "unknown",
            is_paused=state.flag("Paused"),
            pid=state.number("Pid") if state.flag("Running") else 0,
            started_at=state.text("StartedAt"),
            is_removed_on_stop=found["HostConfig"].flag("AutoRemove"),
            environment=_environment(config.texts("Env")),
            command=config.texts("Entrypoint") + config.texts("Cmd"),
            working_directory=config.text("WorkingDir") or "/",
            mounts=_mounts(found["Mounts"]),
            merged=Path(merged) if merged.startswith("/") else None,
            addresses=_addresses(found["NetworkSettings"], config["ExposedPorts"].keys()),
        )

    @property
    def is_running(self) -> bool:
        """Whether its processes are there, paused or not."""
        return self.status in ("running", "paused") and self.pid > 0

    def refuse_unless_running(self) -> None:
        """Raise SourceError unless it runs."""
        if not self.is_running:
            raise SourceError(f"container {self.name} is not running but {self.status}; start it")

    def is_same_run(self, later: Container) -> bool:
        """Whether it ran on without interruption from this moment to a later one."""
        return later.is_running and (later.id, later.started_at) == (self.id, self.started_at)


def _environment(entries: List[str]) -> Dict[str, str]:
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _unused, value in pairs if name}


def _mounts(entries: Decoder) -> List[Mount]:
    """Volumes and bind mounts, the deepest first."""
    mounts = [
        Mount(entry.text("Source"), PurePosixPath(entry.text("Destination")))
        for entry in entries.items()
        if entry.text("Type") in ("volume", "bind") and entry.text("Source").startswith("/")
    ]
    return sorted(mounts, key=lambda mount: len(mount.destination.parts), reverse=True)


def _addresses(network: Decoder, exposed: List[str]) -> List[str]:
    """HOST:PORT under which its TCP ports answer from the Docker host: published ones first."""
    published, ports = [], []
    for port in network["Ports"].keys() or exposed:
        number, _unused, protocol = port.partition("/")
        if protocol in ("", "tcp") and number.isdigit():
            ports.append(number)
            for binding in network["Ports"][port].items():
                host = binding.text("HostIp")
                host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, never bound
                published.append(_address(host, binding.text("HostPort")))
    inner = [entry.text("IPAddress") for entry in network["Networks"].items()]
    return list(dict.fromkeys(published + [_address(host, port) for host in inner if host for port in ports]))


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
