"""Installs the packages that a lock file pins into a folder of this checkout; done again it takes no time.

usage: npm.py FOLDER_OF_THE_LOCK_FILE FOLDER

Where there is no npm it only says how to get it: the tests that need the packages are skipped then.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("package.json", "package-lock.json", ".npmrc")


def install(source: Path, folder: Path) -> None:
    """Install just what the lock file tells, without running any script of a package."""
    stamp = folder / ".made-for"
    digest = hashlib.sha256(b"".join((source / name).read_bytes() for name in FILES)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing the packages of {source.name} into {folder.name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in FILES:
        shutil.copy(source / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, check=True)
    stamp.write_text(digest)


def main(source: str, folder: str) -> None:
    if not shutil.which("npm"):
        print("missing for some of the tests: npm, which Debian has in the package npm", file=sys.stderr)
        return
    try:
        install(ROOT / source, ROOT / folder)
    except subprocess.CalledProcessError:
        raise SystemExit("npm could not install what the lock file pins, see above") from None
    except OSError as problem:
        raise SystemExit(f"the packages could not be installed: {problem}") from None


if __name__ == "__main__":
    main(*sys.argv[1:])
