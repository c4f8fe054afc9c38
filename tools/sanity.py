"""Runs all tests of ansible-test sanity on a copy of the checkout, for every Python of a target that this machine has.

ansible-test wants a real path .../ansible_collections/NAMESPACE/NAME that is a git repository, and real interpreters
instead of pyenv's shims. Its virtual environments stay in .cache, so that the next run is quick.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/ansible-test"
HOME = CACHE / "home"
COPY = CACHE / "ansible_collections/embedded/db_backup"
# ansible-test of the pinned ansible-core asks for this version of get-pip.py and would download it.
GET_PIP = HOME / ".ansible/test/cache/get_pip_24_2.py"
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def find_interpreters() -> dict[str, Path]:
    """Map each version that this machine has to the folder of its real interpreter."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = {}
    for version in PYTHONS:
        candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python{version}")]
        working = [folder for candidate in candidates if candidate and (folder := real_folder(candidate))]
        if working:
            found[version] = working[0]
    return found


def real_folder(interpreter: str | Path) -> Path | None:
    """Ask the interpreter itself: a shim of pyenv exists for versions that do not run."""
    code = "import os, sys; print(os.path.dirname(os.path.realpath(sys.executable)))"
    answer = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def copy_checkout() -> None:
    """Copy what git knows or would add; a fresh repository keeps ansible-test from asking the one around it."""
    shutil.rmtree(COPY, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet"], cwd=COPY, check=True)


def prepare_home() -> None:
    """Give ansible-test a home of its own, with the settings of pip that this user has."""
    GET_PIP.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tools/ensure_pip.py", GET_PIP)
    settings, own = Path.home() / ".config/pip", HOME / ".config/pip"
    if settings.is_dir() and not own.exists():
        own.parent.mkdir(exist_ok=True)
        own.symlink_to(settings)


def main(arguments: list[str]) -> int:
    interpreters = find_interpreters()
    print("target Pythons tested:", ", ".join(interpreters), flush=True)
    for version in (version for version in PYTHONS if version not in interpreters):
        print(f"target Python {version} is not on this machine: get it with pyenv install {version}", flush=True)
    copy_checkout()
    prepare_home()
    folders = [Path(sys.executable).parent, *interpreters.values()]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(HOME), "PATH": path}
    command = ["ansible-test", "sanity", "--color", "no", *arguments]
    return subprocess.run(command, cwd=COPY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
