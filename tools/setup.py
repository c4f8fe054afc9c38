"""Makes a virtual environment with pinned requirements and links this checkout as an installed collection.

usage: setup.py REQUIREMENTS [VIRTUAL_ENVIRONMENT]

Done again it takes no time: a stamp in the environment holds the digest of the requirements that it was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parent.parent
LINK = ROOT / ".ansible/collections/ansible_collections/embedded/db_backup"


def link_collection() -> None:
    """Let ansible find the checkout by its full name, whatever its folder is called."""
    LINK.parent.mkdir(parents=True, exist_ok=True)
    if not LINK.is_symlink():
        LINK.symlink_to("../../../..")


def make_environment(environment: Path) -> None:
    """Create the virtual environment, anew when it was made by another Python or the checkout has moved."""
    if sys.version_info < (3, 11):
        raise SystemExit(
            f"Python 3.11 or newer is needed here and {sys.executable} is {sys.version.split()[0]}: "
            "name another one, as in `make setup PYTHON=python3.12`"
        )
    stamp = environment / ".made-for"
    identity = f"{environment} {sys.version}"
    if stamp.exists() and stamp.read_text() == identity:
        return
    if environment.is_symlink():
        raise SystemExit(f"{environment} is a link; what it leads to belongs to others and is not made anew")
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        print(f"installing {package}", flush=True)
        debian.install([package])
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    stamp.write_text(identity)


def install_requirements(requirements: Path, environment: Path) -> None:
    stamp = environment / f".{requirements.name}.sha256"
    digest = requirements_digest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing {requirements.name} into {environment.name}", flush=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(requirements)], check=True)
    stamp.write_text(digest)


def requirements_digest() -> str:
    files = sorted([*ROOT.glob("requirements*.txt"), *ROOT.glob("constraints*.txt")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def set_up(requirements: Path, environment: Path) -> None:
    link_collection()
    # Two makes at the same time must not install into one environment at the same time.
    with open(ROOT / ".ansible/setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_environment(environment)
        install_requirements(requirements, environment)


def main(requirements: str, environment: str = ".venv") -> None:
    try:
        set_up(ROOT / requirements, ROOT / environment)
    except debian.CannotInstall as problem:
        raise SystemExit(f"the setup needs a package: {problem}") from None
    except subprocess.CalledProcessError as problem:
        raise SystemExit(f"the setup stopped: `{' '.join(problem.cmd)}` failed, see above") from None
    except OSError as problem:
        raise SystemExit(f"the setup stopped: {problem}") from None


if __name__ == "__main__":
    main(*sys.argv[1:])
