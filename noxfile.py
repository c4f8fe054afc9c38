"""The stages of the tests, one session each. `make test` runs them all, `make test-fast` those with the tag fast.

One of them alone: `.venv/bin/nox -s unit -- -k manifest`. All tools come from the virtual environment of `make setup`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

ROOT = Path(__file__).resolve().parent
COLLECTIONS = ROOT / ".ansible/collections"
COLLECTION = COLLECTIONS / "ansible_collections/embedded/db_backup"
NO_DOCKER_ENGINE = 69
# A worker for each processor; the tests of one file share what it makes, as a server.
IN_PARALLEL = ["--numprocesses", "auto", "--dist", "loadfile"]

nox.options.default_venv_backend = "none"
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@nox.session(tags=["fast"])
def ruff(session: nox.Session) -> None:
    """Lint and layout of all Python code."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["fast"])
def mypy(session: nox.Session) -> None:
    """Strict types in the engine, in what stands around it, and in the tools."""
    session.run("mypy", "--package", "ansible_collections.embedded.db_backup.plugins")
    session.run("mypy", "noxfile.py", "tools")


@nox.session(tags=["fast"])
def yamllint(session: nox.Session) -> None:
    """Layout of all YAML."""
    session.run("yamllint", "--strict", ".")


@nox.session(name="ansible-lint", tags=["fast"])
def ansible_lint(session: nox.Session) -> None:
    """Playbooks, roles, scenarios and metadata against the production profile."""
    session.run("ansible-lint", "--offline", "--profile", "production", "--strict")


@nox.session(tags=["fast"])
def unit(session: nox.Session) -> None:
    """Tests of single parts."""
    session.run("pytest", "tests/unit", *IN_PARALLEL, *session.posargs)


@nox.session(tags=["fast"])
def integration(session: nox.Session) -> None:
    """Tests against real databases and servers, live writers and real failures."""
    chroma_environment(session)
    nrepl_environments(session)
    session.run("pytest", "tests/integration", *IN_PARALLEL, *session.posargs)


@nox.session
def sanity(session: nox.Session) -> None:
    """All of ansible-test's sanity tests, without exceptions."""
    session.run("python", "tools/sanity.py", *session.posargs)


@nox.session(tags=["fast"])
def docs(session: nox.Session) -> None:
    """The documentation of the modules and the changelog's fragments."""
    strictest = ["--plugin-docs", "--validate-collection-refs", "dependent", "--disallow-unknown-collection-refs"]
    session.run("antsibull-docs", "lint-collection-docs", *strictest, "--check-extra-docs-refs", str(COLLECTION))
    session.run("antsibull-changelog", "lint")


@nox.session(tags=["fast"])
def build(session: nox.Session) -> None:
    """The artifact, installed elsewhere without a network, does the job."""
    with TemporaryDirectory() as folder:
        artifact = build_artifact(session, folder)
        session.env["ANSIBLE_COLLECTIONS_PATH"] = f"{folder}/collections"
        with session.chdir(folder):
            session.run("ansible-galaxy", "collection", "install", "--offline", artifact)
            target = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
            session.run("ansible-playbook", *target, "-e", f"folder={folder}", str(ROOT / "tests/artifact.yml"))


@nox.session(tags=["fast"])
def importer(session: nox.Session) -> None:
    """Galaxy's own gate accepts the artifact."""
    session.run("python", "tools/setup.py", "requirements-importer.txt", ".venv-importer")
    binaries = ROOT / ".venv-importer/bin"
    with TemporaryDirectory() as folder:
        artifact = build_artifact(session, folder)
        with session.chdir(folder):
            session.env["PATH"] = os.pathsep.join([str(binaries), os.environ["PATH"]])
            session.run(str(binaries / "python"), "-m", "galaxy_importer.main", artifact)


@nox.session
def molecule(session: nox.Session) -> None:
    """The scenarios, in containers with systemd as PID 1."""
    chroma_environment(session)
    nrepl_environments(session)
    run_with_engine(session, "molecule", "test", "--all", *session.posargs)


@nox.session
def containers(session: nox.Session) -> None:
    """Tests against databases in real containers, which the stage integration skips."""
    chroma_environment(session)
    names = ("test_containers", "test_lmdb_containers", "test_chroma_containers", "test_capture_hold")
    tests = [f"tests/integration/{name}.py" for name in names]
    tests.append("tests/integration/test_files.py::TestLive::test_a_container_that_is_stopped_or_paused")
    run_with_engine(session, "pytest", *(session.posargs or tests))


def run_with_engine(session: nox.Session, *command: str) -> None:
    """Run a command where a Docker engine answers; skip it where there is none."""
    arguments = [sys.executable, "tests/docker/with_engine.py", *command]
    code = subprocess.run(arguments, stdin=subprocess.DEVNULL, check=False).returncode
    if code == NO_DOCKER_ENGINE:
        session.skip("no Docker engine answers; what to install is said above")
    if code:
        session.error(f"{command[0]} ended with exit code {code}")


def chroma_environment(session: nox.Session) -> None:
    """Provide the virtual environment in which tests find a real Chroma server."""
    session.run("python", "tools/setup.py", "requirements-chroma.txt", ".venv-chroma")


def nrepl_environments(session: nox.Session) -> None:
    """Provide the folders in which tests find real nREPL servers."""
    session.run("python", "tools/setup.py", "requirements-basilisp.txt", ".venv-basilisp")
    session.run("python", "tools/setup.py", "requirements-datalevin.txt", ".venv-datalevin")
    session.run("python", "tools/npm.py", "tests/fixtures/nrepl_servers", ".venv-nbb")


def build_artifact(session: nox.Session, folder: str) -> str:
    session.run("ansible-galaxy", "collection", "build", "--output-path", folder)
    (artifact,) = Path(folder).glob("*.tar.gz")
    return str(artifact)
