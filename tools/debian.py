"""Installs Debian packages where that is allowed; elsewhere says what a person has to install.

usage: debian.py COMMAND=PACKAGE ...    installs each PACKAGE whose COMMAND is missing, and only warns when it cannot

A COMMAND with a slash is the path of a file that the package brings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Sequence


class CannotInstall(Exception):
    """Says in one sentence which packages are missing and how to get them."""


def install(packages: Sequence[str]) -> None:
    """Install `packages` with apt-get, as root or through sudo without a password."""
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise CannotInstall(f"install with your package manager what Debian calls: {names}")
    prefix = _root_prefix()
    if prefix is None:
        raise CannotInstall(f"run as root: apt-get install {names}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False)
    result = subprocess.run(
        [*apt, "install", "--yes", "--no-install-recommends", *packages],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if result.returncode:
        raise CannotInstall(f"apt-get could not install {names}; its message is above")


def _root_prefix() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


def is_there(command: str) -> bool:
    return os.path.exists(command) if "/" in command else shutil.which(command) is not None


def main(arguments: Sequence[str]) -> None:
    wanted = dict(argument.split("=", 1) for argument in arguments)
    missing = [package for command, package in wanted.items() if not is_there(command)]
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    try:
        install(missing)
    except CannotInstall as problem:
        print(f"missing for some of the tests: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
