"""Run a command where a Docker engine answers.

    python tests/docker/with_engine.py COMMAND [ARGUMENT...]

An engine that answers already is used and left alone. Else, as root, a daemon with data and socket of its own is
started (installed first on Debian) for one such command at a time, and stopped once none is left, however they ended.
Else the exit code is 69 and standard error says what to install. The command finds the programs beside this Python
first, so that the container tests run like this:

    .venv/bin/python tests/docker/with_engine.py molecule test
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

NO_ENGINE = 69
START_SECONDS = 60
STOP_SECONDS = 30
DATA = Path("/var/cache/embedded-db-backup-tests/docker")
RUN = Path("/run/embedded-db-backup-tests")
SOCKET = f"unix://{RUN}/docker.sock"
LOG = RUN / "dockerd.log"
LOCK = RUN / "lock"
INSTALLER = Path(__file__).resolve().parents[2] / "tools" / "debian.py"
KEEP_DAEMON = "--keep-daemon"


def main(arguments: list[str]) -> int:
    if arguments == [KEEP_DAEMON]:
        return keep_daemon()
    if not arguments:
        raise SystemExit(__doc__)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    if running_engine() is None and os.geteuid() == 0:
        subprocess.run([sys.executable, str(INSTALLER), "dockerd=docker.io"], stdout=sys.stderr, check=True)
    # Asked again, because a package may have started the service it brings.
    host = running_engine()
    if host:
        return run(arguments, host)
    if os.geteuid() == 0 and shutil.which("dockerd"):
        return run_with_daemon(arguments)
    sys.stderr.write("with_engine: no Docker engine answers; install and start Docker, or be root on Debian\n")
    return NO_ENGINE


def running_engine() -> str | None:
    """Return the address of the engine that the user's own `docker` talks to, if it answers."""
    if not shutil.which("docker"):
        return None
    address = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    host = subprocess.run(address, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return host if answers(host) else None


def answers(host: str) -> bool:
    try:
        return docker(host, "info").returncode == 0
    except subprocess.TimeoutExpired:
        return False


def docker(host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "--host", host, *arguments], capture_output=True, text=True, check=False, timeout=START_SECONDS
    )


def run(command: list[str], host: str) -> int:
    """Run the command and return its exit code; a signal to this process ends the command first."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    # A socket, as a container needs it that is to talk to the engine.
    engine = {"DOCKER_HOST": host, "DOCKER_SOCKET": host.removeprefix("unix://")}
    with subprocess.Popen(command, env={**os.environ, **engine, "PATH": path}) as child:
        try:
            return child.wait()
        except SystemExit:
            child.terminate()
            raise


def run_with_daemon(command: list[str]) -> int:
    """Run the command while holding the lock that keeps the daemon alive, one command at a time."""
    RUN.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        if not try_lock(lock):
            sys.stderr.write("with_engine: waiting for another command that uses the engine of the tests\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        keeper = None if answers(SOCKET) else start_keeper()
        remove_leftovers()
        code = run(command, SOCKET)
    if keeper:
        wait_until(lambda: keeper.poll() is not None, STOP_SECONDS)
    return code


def start_keeper() -> subprocess.Popen[bytes]:
    """Start the daemon's keeper in a session of its own, out of reach of the signals that end a test run."""
    keeper = subprocess.Popen([sys.executable, __file__, KEEP_DAEMON], stdin=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: answers(SOCKET) or keeper.poll() is not None, START_SECONDS)
    if not answers(SOCKET):
        raise SystemExit(f"with_engine: dockerd does not start; the end of {LOG}:\n{LOG.read_text()[-2000:]}")
    return keeper


def remove_leftovers() -> None:
    """Remove the containers and volumes of a run that was killed; the images stay as a cache."""
    for container in docker(SOCKET, "ps", "--all", "--quiet").stdout.split():
        docker(SOCKET, "rm", "--force", "--volumes", container)
    docker(SOCKET, "volume", "prune", "--force")


def keep_daemon() -> int:
    """Run the daemon until nobody holds the lock; the kernel takes it from a process that dies."""
    remove_stale_pid_files()
    addresses = ["--data-root", str(DATA), "--exec-root", str(RUN / "exec"), "--host", SOCKET]
    command = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--pidfile", str(RUN / "docker.pid"), *addresses]
    with LOG.open("wb") as log, LOCK.open("w") as lock:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while daemon.poll() is None and not try_lock(lock):
            time.sleep(0.2)
        daemon.terminate()
        try:
            return daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            return daemon.wait()


def try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_stale_pid_files() -> None:
    """A killed daemon leaves its process id behind, and dockerd trusts it even when another process has that id now."""
    for pid_file in RUN.rglob("*.pid"):
        command_line = Path("/proc", pid_file.read_text().strip(), "cmdline")
        if not command_line.exists() or str(RUN).encode() not in command_line.read_bytes():
            pid_file.unlink()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
