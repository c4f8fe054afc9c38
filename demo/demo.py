# SPDX-License-Identifier: GPL-3.0-or-later
"""Backs up a live LMDB application with one command and proves that the backup restores.

usage: make demo

Needs no root, leaves nothing running, and begins afresh each time in .cache/demo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/fixtures"))

from lmdb_application import BrokenError, Judgement, Writer, judge, seed  # noqa: E402 - found by the line above

WORK = Path(".cache/demo")
APPLICATION, LEDGER, REPOSITORY = WORK / "kg", WORK / "ledger", WORK / "backups"
RESTORED, BY_TAR, BY_HAND = WORK / "restored", WORK / "by-tar", WORK / "by-hand"
INVENTORY = "demo/inventory.yml"
MEGABYTES = 100
TAR_ATTEMPTS = 3
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class FailedError(Exception):
    """The demonstration did not show what it is meant to show."""


def main() -> int:
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, leave)
    try:
        prepare()
        with Writer(APPLICATION, LEDGER) as writer:
            say(f"Its writer (process {writer.process.pid}) commits, deletes and reuses pages without pause.")
            demonstrate(writer)
            say(f"\nThe application noticed nothing: it {writer.stop()}.")
    except KeyboardInterrupt:
        return complain("interrupted; the application is stopped", 130)
    except (BrokenError, FailedError) as error:
        return complain(str(error), 1)
    say(f"\n{BOLD}Proven.{PLAIN} What was made is in {WORK}; `make clean` removes it.")
    return 0


def prepare() -> None:
    heading("An application with an LMDB environment")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    seed(APPLICATION, MEGABYTES)
    judgement = judge(APPLICATION)
    if not judgement.good:
        raise FailedError(f"the new environment is not good: {judgement.sentence}")
    entries = sum(content.entries for content in judgement.databases.values())
    size = (APPLICATION / "data.mdb").stat().st_size
    say(f"{APPLICATION} has {len(judgement.databases)} databases, {entries:,} entries, {megabytes(size)}.")


def demonstrate(writer: Writer) -> None:
    heading("Back it up while it writes")
    run_ansible("ansible-playbook", "-i", INVENTORY, "playbooks/backup.yml")
    manifest = newest_manifest()

    heading("Restore the backup beside it")
    arguments = f"name=kg repository={REPOSITORY.absolute()} dest={RESTORED.absolute()}"
    run_ansible("ansible", "localhost", "-i", INVENTORY, "-m", "backup_restore", "-a", arguments, brief=True)

    heading("Judge the copy; the application is still writing")
    began = datetime.fromisoformat(manifest["timestamp_start"])
    acknowledged = writer.acknowledged(before_ns=int(began.timestamp() * 1e9))
    judgement = judge(RESTORED, at_least=acknowledged)
    show_judgement(judgement)
    if not judgement.good:
        raise FailedError("the restored copy is not good")
    say(f"It holds generation {judgement.generation}; {acknowledged} had been acknowledged when the backup began.")
    compare(manifest, judgement)

    heading("The same with tar, the usual way")
    try_tar()

    heading("The same by hand, with nothing installed but zstd")
    for command in by_hand(manifest):
        say(f"  {command}")


def newest_manifest() -> dict[str, Any]:
    manifests = sorted((REPOSITORY / "kg").glob("[0-9]*/manifest.json"))
    if not manifests:
        raise FailedError(f"there is no backup in {REPOSITORY}")
    manifest: dict[str, Any] = json.loads(manifests[-1].read_text())
    return manifest


def compare(manifest: dict[str, Any], judgement: Judgement) -> None:
    """Show the entries and the checksum in the manifest and in the restored copy side by side."""
    rows = [("", "in the manifest", "in the copy")]
    for database in manifest["source"]["environments"][0]["databases"]:
        if database["name"] in judgement.databases:
            found = judgement.databases[database["name"]].entries
            rows.append((f"entries of {database['name']}", f"{database['entries']:,}", f"{found:,}"))
    recorded = next(file for file in manifest["files"] if file["path"] == "data.mdb")
    restored = RESTORED / "data.mdb"
    rows.append(("bytes of data.mdb", f"{recorded['size']:,}", f"{restored.stat().st_size:,}"))
    with restored.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows.append(("sha256 of data.mdb", recorded["sha256"][:16], digest[:16]))
    say()
    for name, expected, present in rows:
        say(f"  {name}{' ' * (36 - width(name))}{expected:>18}{present:>18}")
    if any(expected != present for _unused, expected, present in rows[1:]) or recorded["sha256"] != digest:
        raise FailedError("the copy is not what the manifest says")


def try_tar() -> None:
    """Let tar copy the live environment, until the judge finds the copy torn."""
    archive = WORK / "by-tar.tar.gz"
    for _unused in range(TAR_ATTEMPTS):
        shutil.rmtree(BY_TAR, ignore_errors=True)
        BY_TAR.mkdir()
        run("tar", "czf", str(archive), "-C", str(APPLICATION), ".", tolerated=(0, 1))
        run("tar", "xzf", str(archive), "-C", str(BY_TAR))
        judgement = judge(BY_TAR)
        show_judgement(judgement)
        if not judgement.good:
            return
    say("tar was lucky here, because the disk lets the application write only slowly.")


def by_hand(manifest: dict[str, Any]) -> list[str]:
    """The commands of the manifest with a folder of this demonstration, and one to judge what they restored."""
    destination = shlex.quote(str(BY_HAND.absolute()))
    judging = [sys.executable, str(ROOT / "tests/fixtures/lmdb_application.py"), "judge", str(BY_HAND.absolute())]
    restoring = [command.replace("DESTINATION", destination) for command in manifest["restore_by_hand"]]
    return [f"mkdir -p {destination}", *restoring, shlex.join(judging)]


def run_ansible(program: str, *arguments: str, brief: bool = False) -> None:
    """Run a program of Ansible and show its command line and its output, in brief without the long manifest in it."""
    command = [os.path.relpath(Path(sys.executable).with_name(program)), *arguments]
    say(f"$ {shlex.join(command)}")
    # Ansible refuses to run where the locale is not UTF-8.
    environment = {**os.environ, "ANSIBLE_NOCOWS": "1", "LC_ALL": "C.UTF-8"}
    if BOLD and not brief:
        environment["ANSIBLE_FORCE_COLOR"] = "1"
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE if brief else None, text=True, check=False)
    if brief:
        say(without_manifest(result.stdout))
    if result.returncode != 0:
        raise FailedError(f"{program} failed")


def without_manifest(output: str) -> str:
    """The output of an ad hoc command, its manifest replaced by a few words."""
    host, arrow, text = output.partition(" => ")
    try:
        result = json.loads(text)
        result["backup"] = f"the manifest of {result['backup']['id']}, left out here"
    except (ValueError, KeyError):
        return output.rstrip()
    return host + arrow + json.dumps(result, indent=4, ensure_ascii=False)


def run(*command: str, tolerated: tuple[int, ...] = (0,)) -> None:
    """Show a command and run it; tar ends with 1 when a file changed while it read it."""
    say(f"$ {shlex.join(command)}")
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode not in tolerated:
        raise FailedError(f"{command[0]} failed: {result.stderr.strip()}")


def show_judgement(judgement: Judgement) -> None:
    say(f"{'Good' if judgement.good else 'Torn'}: {judgement.sentence}.")


def heading(text: str) -> None:
    say(f"\n{BOLD}{text}{PLAIN}")


def say(text: str = "") -> None:
    print(text, flush=True)


def complain(text: str, status: int) -> int:
    print(f"\ndemo: {text}", file=sys.stderr)
    return status


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def width(text: str) -> int:
    """The columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def leave(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
