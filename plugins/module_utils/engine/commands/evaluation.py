# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command that has an nREPL server evaluate code: nrepl-eval."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Optional

from ..errors import UsageError
from ..nrepl.address import PORT_FILE, Address
from ..operations.evaluate import Request
from ..operations.evaluate import evaluate as ask
from ..tables import printable
from .common import Told, warning_lines

_LONGEST_CODE = 16 << 20


def evaluate(options: argparse.Namespace) -> Told:
    """Evaluate the code; the text is what it printed to out, and its value."""
    evaluated = ask(Request(address_of(options), _code(options.code), options.ns, options.timeout))
    told = evaluated.to_json()
    if evaluated.problem is not None:
        told["error"] = evaluated.problem
    elif not options.json and told["err"]:
        sys.stderr.write(_shown(told["err"], sys.stderr.isatty()).rstrip("\n") + "\n")
    parts = [*warning_lines(evaluated.warnings), told["out"].rstrip("\n"), told["value"] or ""]
    text = "\n".join(part for part in parts if part)
    return Told(told, _shown(text, sys.stdout.isatty()), evaluated.problem)


def address_of(options: argparse.Namespace) -> Address:
    """The one that is given; else the port that a server has written to the working directory."""
    address = Address(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Address)})
    if address.port is None and address.socket is None and address.port_file is None:
        return dataclasses.replace(address, port_file=PORT_FILE)
    return address


def _code(given: Optional[str]) -> str:
    if given is not None and given != "-":
        return given
    content = sys.stdin.buffer.read(_LONGEST_CODE + 1)
    if len(content) > _LONGEST_CODE:
        raise UsageError(f"the code on standard input has more than {_LONGEST_CODE >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UsageError("the code on standard input is not in UTF-8") from None


def _shown(text: str, is_terminal: bool) -> str:
    """For programs as it is; a terminal must not obey what a server sends."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n")) if is_terminal else text
