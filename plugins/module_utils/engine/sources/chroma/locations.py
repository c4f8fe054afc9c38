# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a Chroma server in a container keeps its data: what its command line, configuration and image tell.

The server decides, so the file it has open counts more than all of these, see containers.locate.

- 1.x: `chroma run --path DIRECTORY`, or `chroma run /config.yaml`, whose persist_path is "/data" in the official image.
  A configuration without persist_path means the working directory.
- 0.4 and 0.5: the environment variable PERSIST_DIRECTORY, else /chroma/chroma.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import ContextManager, Iterator, List, Optional, Sequence

from ...containers import locate as containers
from ...containers.container import Container
from ...containers.locate import Candidate, Located, Look

FILE_NAME = "chroma.sqlite3"
CONFIGURATION = PurePosixPath("/config.yaml")
# Asked of a server that was started after a restore: of 1.x, and of versions before.
HEARTBEAT_PATHS = ("/api/v2/heartbeat", "/api/v1/heartbeat")
_VARIABLES = ("CHROMA_PERSIST_PATH", "PERSIST_DIRECTORY")
_DEFAULTS = (PurePosixPath("/data"), PurePosixPath("/chroma/chroma"), PurePosixPath("/chroma"))
_LARGEST_CONFIGURATION = 1 << 20
# A key at the beginning of a line, its value plain or in quotes: all that is wanted of YAML here.
_PERSIST_PATH = re.compile(r"""^(['"]?)persist_path\1\s*:\s+(?:"([^"\\]*)"|'([^']*)'|([^\s#'"][^#]*?))\s*(?:\#.*)?$""")


def locate(
    container: str,
    docker_host: Optional[str],
    path: Optional[Path],
    scratch: Optional[Path] = None,
    include: Sequence[str] = (),
) -> ContextManager[Located]:
    """The data directory of a Chroma server in a container, as containers.locate has it."""
    return containers.locate(container, docker_host, path, FILE_NAME, scratch, guess=candidates, include=include)


def candidates(look: Look) -> Iterator[Candidate]:
    """Directories to try, the most certain first. A path that somebody wrote down is not made up for by a default."""
    container = look.container
    told = _on_command_line(container.command) or _in_configuration(look)
    if told:
        yield told._replace(directory=_absolute(container, told.directory))
        return
    for variable in _VARIABLES:
        if container.environment.get(variable):
            yield Candidate(_absolute(container, PurePosixPath(container.environment[variable])), "environment")
    for directory in _DEFAULTS:
        yield Candidate(directory, "default of the image")
    yield Candidate(_absolute(container, PurePosixPath(".")), "working directory")


def persist_path(configuration: bytes) -> Optional[str]:
    """The value of persist_path in a configuration of Chroma, None where it has none.

    Reads lines of the form `persist_path: VALUE` at the top level; anchors, escapes and values of several lines are
    not understood, as no such value is a sensible path.
    """
    for line in configuration.decode("utf-8", errors="replace").splitlines():
        found = _PERSIST_PATH.match(line)
        if found:
            return next((value for value in found.groups()[1:] if value), None)
    return None


def _on_command_line(command: List[str]) -> Optional[Candidate]:
    for position, word in enumerate(command):
        if word.startswith("--path="):
            return Candidate(PurePosixPath(word[len("--path=") :]), "command line")
        if word == "--path" and position + 1 < len(command):
            return Candidate(PurePosixPath(command[position + 1]), "command line")
    return None


def _in_configuration(look: Look) -> Optional[Candidate]:
    named = [word for word in look.container.command if word.endswith((".yaml", ".yml"))]
    path = _absolute(look.container, PurePosixPath(named[0])) if named else CONFIGURATION
    content = look.read(path, _LARGEST_CONFIGURATION)
    value = persist_path(content) if content else None
    return Candidate(PurePosixPath(value), str(path)) if value else None


def _absolute(container: Container, path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(container.working_directory) / path
