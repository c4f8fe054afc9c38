# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutual TLS: a real TLS server in front of a real nREPL server, and files of keys with parts that are missing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import PATIENCE, Server
from ansible_collections.embedded.db_backup.tests.nrepl_fakes import Conversation, fake_server
from ansible_collections.embedded.db_backup.tests.nrepl_tls import Authority, tls_server
from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT, Ansible, Command, eventually

OVER = "the 1 seconds for it are over"
# Connects with a file of keys, and tells every file that Python opened to write to it, or that was made.
WATCHED = """
import sys
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl import tls
def watch(event, arguments):
    if event == "open" and arguments[2] & 3 or event in ("os.mkdir", "os.rename", "os.link", "tempfile.mkstemp"):
        print(event, arguments)
sys.addaudithook(watch)
tls.client_context(sys.argv[1])
print("done")
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture(scope="module")
def port(jvm: Server, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that wants certificates of the authority."""
    with tls_server(tmp_path_factory.mktemp("tls"), authority, authority.issue("server"), jvm.address.port) as port:
        yield port


@pytest.fixture
def keys(authority: Authority, tmp_path: Path) -> Path:
    """The file of a client."""
    return written(tmp_path, authority.keys(authority.issue("client")))


def written(folder: Path, content: str) -> Path:
    file = folder / "client.keys"
    file.touch(mode=0o600)
    file.write_text(content)
    return file


def evaluate(port: int, keys: Path | None, code: str = "(+ 1 2)", seconds: float = PATIENCE) -> str:
    with Client(Address(port=port, tls_keys=str(keys) if keys else None), Deadline(seconds)) as client:
        return client.evaluate(code).only_value()


def problem_of(port: int, keys: Path | None, code: str = "(+ 1 2)", seconds: float = PATIENCE) -> str:
    with pytest.raises(BackupError) as told:
        evaluate(port, keys, code, seconds)
    assert str(told.value).isprintable()
    assert "PRIVATE KEY" not in str(told.value)
    return str(told.value)


def test_code_and_large_values(jvm: Server, port: int, keys: Path) -> None:
    before = jvm.sessions()
    assert evaluate(port, keys) == "3"
    assert evaluate(port, keys, '(apply str (repeat 1000000 "\U0001f600"))') == '"' + "\U0001f600" * 1_000_000 + '"'
    assert evaluate(port, keys, f"(+ 1 {' ' * 1_000_000} 2)") == "3"
    assert "Divide by zero" in problem_of(port, keys, "(/ 1 0)")
    assert "the 1 seconds for it are over" in problem_of(port, keys, "(Thread/sleep 60000)", 1)
    eventually(lambda: jvm.sessions() <= before, "the sessions from before")


@pytest.mark.parametrize("is_rsa", [False, True], ids=["EC", "RSA"])
def test_kinds_of_keys(port: int, authority: Authority, tmp_path: Path, is_rsa: bool) -> None:
    client = authority.issue("client", is_rsa=is_rsa)
    assert evaluate(port, written(tmp_path, authority.keys(client))) == "3"
    text = f"a remark\r\n{authority.identity.pem}\n\n{client.pem}{client.key_pem(legacy=True)}the end"
    assert evaluate(port, written(tmp_path, text.replace("\n", "\r\n"))) == "3"


def test_command_and_module(port: int, keys: Path, dbbackup: Command, ansible: Ansible) -> None:
    done = dbbackup("nrepl-eval", "(+ 1 2)", "--port", str(port), "--tls-keys", keys)
    assert (done.code, done.stdout) == (0, "3\n")
    result = ansible.module("nrepl_eval", port=port, tls_keys=str(keys), code="(* 6 (+ 3 4))")
    assert result["value"] == "42"
    # What the server says of it may be lost with the connection.
    problem = dbbackup.fails(2, "nrepl-eval", "1", "--port", str(port))
    assert any(words in problem for words in ("it wants TLS, for which tls_keys is needed", "reset", "closed"))


def test_only_the_own_authority_is_trusted(jvm: Server, authority: Authority, tmp_path: Path, keys: Path) -> None:
    other = Authority.make()
    for identity in (other.issue("server"), other.identity):
        with tls_server(tmp_path, authority, identity, jvm.address.port) as port:
            assert f"the authority in {keys} does not vouch for it: " in problem_of(port, keys)
    with tls_server(tmp_path, authority, authority.issue("server", days=-1), jvm.address.port) as port:
        assert "certificate has expired" in problem_of(port, keys)


def test_a_server_that_does_not_trust_the_client(port: int, authority: Authority, tmp_path: Path) -> None:
    other = Authority.make()
    stranger = authority.identity.pem + other.issue("client").pem
    # The own certificate is of another authority.
    client = other.issue("client")
    problem = problem_of(port, written(tmp_path, authority.identity.pem + client.pem + client.key_pem()))
    assert problem.startswith("no nREPL server answers at 127.0.0.1:")
    # What the server says of it may be lost with the connection.
    assert any(words in problem for words in ("alert", "EOF", "reset", "Broken pipe", "closed the connection"))
    # The key is that of another certificate.
    problem = problem_of(port, written(tmp_path, stranger + client.key_pem()))
    assert "cannot be used: the private key is not that of the second certificate" in problem


def without_tls(conversation: Conversation) -> None:
    conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (without_tls, "the TLS handshake failed: WRONG_VERSION_NUMBER"),
        (lambda conversation: conversation.send(os.urandom(100)), ("the TLS handshake failed: ", "reset by peer")),
        (lambda conversation: conversation.flood(b"\x16\x03\x03\x40\x00" + b"x" * 16384), "the TLS handshake failed: "),
        (Conversation.reset, ("the TLS handshake failed: ", "reset by peer")),
        (lambda conversation: conversation.first_bytes(), ("the TLS handshake failed: ", "reset by peer")),
        (lambda conversation: conversation.all_bytes(), OVER),
        (lambda conversation: conversation.drip(b"\x16\x03\x03\x00\x7a" + b"\x02" * 200), OVER),
    ],
    ids=["HTTP", "garbage", "flood", "RST", "closes", "silence", "drips"],
)
def test_servers_that_speak_no_tls(
    keys: Path, play: Callable[[Conversation], None], words: str | tuple[str, ...]
) -> None:
    begin = time.monotonic()
    with fake_server(play) as (port, _conversations):
        problem = problem_of(port, keys, seconds=1 if words == OVER else PATIENCE)
    assert any(word in problem for word in ([words] if isinstance(words, str) else words)), problem
    assert problem.startswith("no nREPL server answers at 127.0.0.1:")
    assert time.monotonic() - begin < 30


class TestFileOfKeys:
    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ([], "the certificate of the authority and the own certificate, which follows that of the authority"),
            (["key"], "the certificate of the authority and the own certificate"),
            (["authority", "key"], "lacks the own certificate, which follows that of the authority"),
            (["authority", "client"], "lacks the private key"),
            (["authority"], "lacks the own certificate, which follows that of the authority and the private key"),
            (["authority", "client", "encrypted"], "has a private key with a password; nREPL uses those without"),
            (["authority", "client", "half"], "lacks the private key"),
            (["authority", "client", "broken"], "cannot be used: "),
            (["broken certificate", "client", "key"], "cannot be used: "),
            (["authority", "broken certificate", "key"], "cannot be used: "),
        ],
        ids=str,
    )
    def test_what_is_missing_is_named(self, authority: Authority, tmp_path: Path, parts: list[str], words: str) -> None:
        client = authority.issue("client")
        key = client.key_pem()
        known = {
            "authority": authority.identity.pem,
            "client": client.pem,
            "key": key,
            "encrypted": client.key_pem(b"a password"),
            "half": key[: len(key) // 2],
            "broken": key.replace(key[40:60], "A" * 20),
            "broken certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        }
        file = written(tmp_path, "".join(known[part] for part in parts))
        problem = problem_of(1, file)
        assert f"tls_keys {file}" in problem
        assert words in problem
        assert not any(line in problem for line in key.splitlines()[1:-1])

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        port = 1
        assert "No such file or directory" in problem_of(port, tmp_path / "missing")
        assert "is not a file" in problem_of(port, tmp_path) or "Is a directory" in problem_of(port, tmp_path)
        os.mkfifo(tmp_path / "pipe")
        assert "is not a file" in problem_of(port, tmp_path / "pipe")
        assert "is not a file" in problem_of(port, Path("/dev/zero"))
        (tmp_path / "large").write_bytes(b"-----BEGIN CERTIFICATE-----\n" * 100_000)
        assert "is not a file of at most 1 MiB" in problem_of(port, tmp_path / "large")

    def test_the_key_is_written_nowhere(self, keys: Path, tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".ansible/collections"), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-B", "-c", WATCHED, str(keys)]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (run.stdout, run.stderr) == ("done\n", "")
        assert list(tmp_path.iterdir()) == [keys]
