# SPDX-License-Identifier: GPL-3.0-or-later
"""Code evaluated by a real server in a JVM: what comes back, what fails, and that no session is left there."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import (
    EvaluationError,
    NoConnectionError,
)
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
from ansible_collections.embedded.db_backup.tests.fixtures import nrepl_servers
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import PATIENCE, Server
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    Done,
    assert_told,
    eventually,
    keys_told,
)

COLLECTION = "embedded.db_backup"
ONCE_ANSWERED = "success, and failure once the server has answered"
DIVIDE = "Execution error (ArithmeticException)"
# What leaving may take beyond the deadline, on a busy machine.
FAREWELL = 2 + 10


@pytest.fixture
def server(jvm: Server) -> Server:
    """A server that no test harms."""
    return jvm


@pytest.fixture(autouse=True)
def no_session_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the server has the sessions it had before."""
    if "server" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("server")
    before = server.sessions()
    yield
    # A busy server may close one a moment after the client has left.
    eventually(lambda: server.sessions() <= before, "the sessions from before")


def problem_of(server: Server, code: str, seconds: float = PATIENCE, ns: str | None = None) -> str:
    """Why the code is no success."""
    with pytest.raises(EvaluationError) as told, Client(server.address, Deadline(seconds)) as client:
        client.evaluate(code, ns).only_value()
    assert str(told.value).isprintable()
    return str(told.value)


class TestClient:
    def test_a_server_tells_what_it_is(self, server: Server) -> None:
        with Client(server.address, Deadline(PATIENCE)) as client:
            told = client.describe()
        assert told.versions.keys() >= {"clojure", "java", "nrepl"}
        assert told.versions["clojure"].startswith("1.")
        assert told.operations >= {"clone", "close", "eval", "interrupt", "ls-sessions"}

    def test_text_of_every_plane_comes_back(self, server: Server) -> None:
        text = 'quote " backslash \\ \U0001f600 \u00fc \u9898 \u202e \0 \x1b \uffff \U0010ffff \n\t\r'
        code = '(do (print "ä") (binding [*out* *err*] (print "ö")) (apply str (map char ['
        code += " ".join(str(int.from_bytes(unit, "little")) for unit in units(text)) + "])))"
        with Client(server.address, Deadline(PATIENCE)) as client:
            answer = client.evaluate(code)
            assert json.loads(client.evaluate(f"(count {json.dumps(answer.out + answer.err)})").only_value()) == 2
        assert (answer.out, answer.err, answer.dropped) == ("ä", "ö", 0)
        # Clojure escapes a few characters only, all as JSON does.
        assert json.loads(answer.only_value(), strict=False) == text

    def test_several_forms_and_states_of_one_client(self, server: Server) -> None:
        with Client(server.address, Deadline(PATIENCE)) as client:
            client.evaluate("(set! *print-length* 2)").only_value()
            assert client.evaluate("(range 5)").only_value() == "(0 1 ...)"
            assert "Divide by zero" in str(client.evaluate("(/ 1 0)").problem())
            assert client.evaluate("(str *ns*)", ns="clojure.zip").problem() is not None
            client.evaluate("(require 'clojure.zip)").only_value()
            assert client.evaluate("(str *ns*)", ns="clojure.zip").only_value() == '"clojure.zip"'
        # Another session knows nothing of that.
        assert server.evaluate("(range 5)") == "(0 1 2 3 4)"

    def test_values_up_to_a_bound(self, server: Server) -> None:
        code = '(apply str (repeat 2000000 "\U0001f600"))'
        with Client(server.address, Deadline(PATIENCE), longest_value=9_000_000) as client:
            assert client.evaluate(code).only_value() == '"' + "\U0001f600" * 2_000_000 + '"'
        problem = problem_of(server, code)
        assert "where at most 4,194,304 are taken" in problem

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("(/ 1 0)", f"the evaluation failed (eval-error): {DIVIDE} at user/eval"),
            ("(def a 1) (/ 1 0) :after", f"the evaluation failed (eval-error): {DIVIDE}"),
            ('(throw (ex-info "boom \U0001f600\\nat noon" {:a 1}))', "boom \U0001f600 at noon"),
            ("(no-such-function 1)", "Unable to resolve symbol: no-such-function in this context"),
            ("(foo", "EOF while reading"),
            ("1 2", "the code gave 2 values; send one form"),
            ("; nothing", "the code gave no value"),
            ("(read-line)", "waits for input, and there is none"),
            ("(.stop (Thread/currentThread))", "the code gave no value"),
        ],
    )
    def test_code_that_fails(self, server: Server, code: str, words: str) -> None:
        assert words in problem_of(server, code)

    def test_a_namespace_that_is_not_there(self, server: Server) -> None:
        assert "namespace-not-found" in problem_of(server, "1", ns="no.such.namespace")

    def test_a_time_out_interrupts(self, server: Server) -> None:
        server.evaluate("(def counter (atom 0))")
        begin = time.monotonic()
        problem = problem_of(server, "(while true (swap! counter inc) (Thread/sleep 5))", 1)
        assert time.monotonic() - begin < 1 + FAREWELL
        assert "the 1 seconds for it are over; the server may still be working on it" in problem

        def stands_still() -> bool:
            first = server.evaluate("@counter")
            time.sleep(0.1)
            return server.evaluate("@counter") == first

        eventually(stands_still, "an interrupted evaluation")
        assert int(server.evaluate("@counter")) > 0

    def test_the_deadline_is_one_for_all(self, server: Server) -> None:
        begin = time.monotonic()
        with Client(server.address, Deadline(2)) as client, pytest.raises(EvaluationError):
            all(client.evaluate("(Thread/sleep 300)").values for _number in range(100))
        assert time.monotonic() - begin < 2 + FAREWELL

    def test_over_a_unix_socket(self, jvm_on_socket: Server, tmp_path: Path) -> None:
        before = jvm_on_socket.sessions()
        assert jvm_on_socket.evaluate("(+ 1 2)") == "3"
        assert "Divide by zero" in problem_of(jvm_on_socket, "(/ 1 0)")
        eventually(lambda: jvm_on_socket.sessions() <= before, "no new session")
        # Such a server leaves a file without a port.
        (tmp_path / ".nrepl-port").touch()
        address = Address(port_file=str(tmp_path / ".nrepl-port"))
        with pytest.raises(NoConnectionError, match="is empty, as for a server on a socket"):
            Client(address, Deadline(5)).__enter__()


def units(text: str) -> list[bytes]:
    """The UTF-16 code units of a text."""
    data = text.encode("utf-16-le")
    return [data[at : at + 2] for at in range(0, len(data), 2)]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda server: server.signal(signal.SIGKILL), ("closed the connection", "reset by peer")),
        (lambda server: server.signal(signal.SIGSTOP), ("the 4 seconds for it are over",)),
        (None, ("closed the connection", "reset by peer")),
    ],
    ids=["SIGKILL", "SIGSTOP", "System/exit"],
)
def test_a_server_that_is_lost_in_the_middle(
    jvm: Server, tmp_path: Path, harm: Callable[[Server], None] | None, words: tuple[str, ...]
) -> None:
    assert jvm.answers(), "what is harmed is another one"
    with nrepl_servers.jvm(tmp_path) as server:
        begun = tmp_path / "begun"
        end = "(Thread/sleep 600000)" if harm else "(System/exit 0)"
        code = f'(do (println "begins") (spit "{begun}" "1") {end})'
        begin = time.monotonic()
        command = Command(tmp_path / "repository", tmp_path / "jobs.d")
        arguments = command.arguments("nrepl-eval", code, "--port", str(server.address.port), "--timeout", "4")
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            eventually(begun.exists, "an evaluation that has begun")
            if harm:
                harm(server)
            stdout, stderr = client.communicate(timeout=60)
        seconds = time.monotonic() - begin
        port_file = server.log.parent / ".nrepl-port"
        known = port_file.read_text() if harm else ""
        server.signal(signal.SIGKILL)
        server.process.wait(PATIENCE)
    assert (client.returncode, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert any(word in stderr for word in words), stderr
    assert "; the server may still be working on it" in stderr
    assert seconds < 4 + FAREWELL
    if known:
        # A killed server leaves its file behind.
        problem = command.fails(2, "nrepl-eval", "1", "--port-file", port_file)
        assert problem == (
            f"no nREPL server answers at 127.0.0.1:{known}, as {port_file} says: Connection refused; "
            "the file may be left from a server that has ended"
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_client_leaves_nothing(server: Server, dbbackup: Command, tmp_path: Path, number: int) -> None:
    before = server.sessions()
    server.evaluate("(def ended (atom nil))")
    begun = tmp_path / "begun"
    wait = '(try (Thread/sleep 600000) (catch InterruptedException e (reset! ended "interrupted")))'
    code = f'(do (spit "{begun}" "1") {wait})'
    arguments = dbbackup.arguments("nrepl-eval", code, "--port", str(server.address.port))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        eventually(begun.exists, "an evaluation that has begun")
        client.send_signal(number)
        stdout, stderr = client.communicate(timeout=60)
    assert (client.returncode, stdout, stderr.count("\n")) == (130, "", 1)
    eventually(lambda: server.evaluate("@ended") == '"interrupted"', "an interrupted evaluation")
    eventually(lambda: server.sessions() <= before, "no new session")


class TestCommand:
    @pytest.fixture
    def evaluate(self, server: Server, dbbackup: Command) -> Callable[..., Done]:
        def run(*arguments: str, **options: Any) -> Done:
            return dbbackup("nrepl-eval", *arguments, "--port", str(server.address.port), **options)

        return run

    def test_out_and_value_and_err(self, evaluate: Callable[..., Done]) -> None:
        done = evaluate('(do (println "printed\t1") (binding [*out* *err*] (println "warned")) {:a "\u00fc"})')
        assert (done.code, done.stdout, done.stderr) == (0, 'printed\t1\n{:a "\u00fc"}\n', "warned\n")
        assert evaluate("nil").stdout == "nil\n"

    @pytest.mark.parametrize("arguments", [[], ["-"]])
    def test_code_on_standard_input(self, evaluate: Callable[..., Done], tmp_path: Path, arguments: list[str]) -> None:
        (tmp_path / "code.clj").write_text('(str "\u00fc"\n  "\\"")\n')
        with open(tmp_path / "code.clj", "rb") as code:
            done = evaluate(*arguments, stdin=code)
        assert (done.code, done.stdout) == (0, '"\u00fc\\""\n')

    def test_json_is_exact(self, evaluate: Callable[..., Done]) -> None:
        done = evaluate("--json", '(do (print "a\\u001b[31m") "\\u0007")')
        assert done.json == {
            "changed": True,
            "skipped": False,
            "reason": None,
            "value": '"\x07"',
            "out": "a\x1b[31m",
            "err": "",
            "ex": None,
            "warnings": [],
        }

    def test_code_that_fails(self, evaluate: Callable[..., Done]) -> None:
        for options in ([], ["--json"]):
            done = evaluate('(do (println "before") (/ 1 0))', *options)
            assert done.code == 1
            assert done.stderr.startswith(f"dbbackup: the evaluation failed (eval-error): {DIVIDE}")
            assert done.stderr.count("\n") == 1
        told = done.json
        assert (told["value"], told["out"], told["ex"]) == (None, "before\n", "class java.lang.ArithmeticException")
        assert "Divide by zero" in told["err"]
        assert done.stderr == f"dbbackup: {told['error']}\n"
        done = evaluate("(/ 1 0)")
        assert done.stdout == ""

    def test_a_terminal_obeys_nothing(self, server: Server, dbbackup: Command) -> None:
        ours, theirs = pty.openpty()
        code = '(do (println "a\\u001b]0;b\\u0007\\tc") "\\u001b[2J")'
        run = subprocess.run(
            dbbackup.arguments("nrepl-eval", code, "--port", str(server.address.port)), stdout=theirs, check=False
        )
        os.close(theirs)
        shown = os.read(ours, 1 << 16).decode()
        os.close(ours)
        assert run.returncode == 0
        assert shown == 'a\\x1b]0;b\\x07 c\r\n"\\x1b[2J"\r\n'

    def test_the_port_of_the_working_directory(self, server: Server, dbbackup: Command, tmp_path: Path) -> None:
        assert dbbackup("nrepl-eval", "(+ 1 2)", cwd=server.log.parent).stdout == "3\n"
        problem = dbbackup.fails(2, "nrepl-eval", "(+ 1 2)", cwd=tmp_path)
        assert problem == "no port of an nREPL server is known: .nrepl-port: No such file or directory"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--port", "1", "1"], "no nREPL server answers at 127.0.0.1:1: Connection refused"),
            (
                ["--port", "1", "--host", "no-such-host.invalid", "1"],
                "no nREPL server answers at no-such-host.invalid:1",
            ),
            (["--port", "1", "--host", "a..b", "1"], "no nREPL server answers at a..b:1: "),
            (["--socket", "/no/such/socket", "1"], "no nREPL server answers at /no/such/socket: No such file"),
            (["--socket", "/etc/passwd", "1"], "no nREPL server answers at /etc/passwd: Connection refused"),
            (["--port", "0", "1"], "port 0 is out of range"),
            (["--port", "1", "--socket", "/x", "1"], "not port and socket together"),
            (["--port", "1", ""], "code is empty"),
            (["--port", "1", "--ns", " ", "1"], "ns is empty"),
            (["--port", "1", "--timeout", "0", "1"], "timeout 0 is out of range"),
            (["--port", "1", "-"], "code is empty"),
        ],
        ids=" ".join,
    )
    def test_nothing_was_evaluated(self, dbbackup: Command, arguments: list[str], words: str) -> None:
        assert words in dbbackup.fails(2, "nrepl-eval", *arguments)

    def test_code_that_is_no_text(self, dbbackup: Command, tmp_path: Path) -> None:
        run = subprocess.run(
            [*dbbackup.arguments("nrepl-eval", "--port", "1"), b"\xff"], capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stderr) == (2, "dbbackup: code is not a text in UTF-8\n")
        (tmp_path / "code").write_bytes(b"\xff")
        with open(tmp_path / "code", "rb") as code:
            assert "not in UTF-8" in dbbackup.fails(2, "nrepl-eval", "--port", "1", stdin=code)
        with open("/dev/zero", "rb") as code:
            assert "more than 16 MiB" in dbbackup.fails(2, "nrepl-eval", "--port", "1", stdin=code)


class TestModule:
    SECRET = '(str "the secret " "of " (* 2 21))'

    def test_short_name_with_simple_arguments(self, ansible: Ansible, server: Server) -> None:
        arguments = f"port={server.address.port} code='(+ 1 41)'"
        done = ansible.run("ansible", "localhost", "-m", "nrepl_eval", "-a", arguments)
        result = done.json["plays"][0]["tasks"][0]["hosts"]["localhost"]
        assert (result["changed"], result["value"]) == (True, "42")

    def test_what_it_returns(self, ansible: Ansible, server: Server) -> None:
        code = '(do (println "out") (binding [*out* *err*] (println "err")) [1 "\u00fc"])'
        port_file = str(server.log.parent / ".nrepl-port")
        result = ansible.module(f"{COLLECTION}.nrepl_eval", "--diff", port_file=port_file, code=code, ns="user")
        told = {"value": '[1 "\u00fc"]', "out": "out\n", "err": "err\n", "ex": None, "reason": None}
        assert result == {"changed": True, **told}

    def test_a_failure_tells_all(self, ansible: Ansible, server: Server) -> None:
        result = ansible.failure("nrepl_eval", port=server.address.port, code='(do (println "out") (/ 1 0))')
        assert result["msg"].startswith(f"the evaluation failed (eval-error): {DIVIDE}")
        assert (result["exit_code"], result["changed"], result["value"]) == (1, True, None)
        assert (result["out"], result["ex"]) == ("out\n", "class java.lang.ArithmeticException")
        result = ansible.failure("nrepl_eval", port=server.address.port, code="(Thread/sleep 60000)", timeout=1)
        assert "the server may still be working on it" in result["msg"]
        assert (result["exit_code"], result["changed"]) == (1, False)

    @pytest.mark.parametrize(
        ("exit_code", "options", "words"),
        [
            (2, {"port": 1}, "Connection refused"),
            (2, {"port": None}, "none of them is given"),
            (2, {"socket": "/x"}, "not port and socket together"),
            (2, {"timeout": 0}, "timeout 0 is out of range"),
            (2, {"code": " "}, "code is empty"),
            (2, {"tls_keys": "/no/such.keys"}, "/no/such.keys: No such file"),
            (None, {"code": None}, "code"),
            (None, {"port": "x"}, "port"),
        ],
        ids=str,
    )
    def test_what_fails_fails_with_one_sentence(
        self, ansible: Ansible, server: Server, exit_code: int | None, options: dict[str, Any], words: str
    ) -> None:
        given = {"port": server.address.port, "code": "(+ 1 41)", **options}
        result = ansible.failure("nrepl_eval", **{key: value for key, value in given.items() if value is not None})
        assert result.get("exit_code") == exit_code
        assert words in result["msg"]
        assert "value" not in result

    def test_check_mode_evaluates_nothing_and_asks_nobody(self, ansible: Ansible, server: Server) -> None:
        server.evaluate("(def touched (atom 0))")
        result = ansible.module("nrepl_eval", "--check", port=server.address.port, code="(swap! touched inc)")
        assert result["changed"] is False
        assert result["reason"] == "nothing is evaluated in check mode"
        assert server.evaluate("@touched") == "0"
        assert ansible.module("nrepl_eval", "--check", port=1, code="1")["changed"] is False
        assert "code is empty" in ansible.failure("nrepl_eval", "--check", port=1, code=" ")["msg"]

    def test_check_mode_skips_the_task(self, ansible: Ansible, server: Server, tmp_path: Path) -> None:
        task = {f"{COLLECTION}.nrepl_eval": {"port": server.address.port, "code": "(+ 1 41)"}, "register": "told"}
        wanted = {"ansible.builtin.assert": {"that": ["told is skipped == ansible_check_mode"]}}
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task, wanted]}]))
        for options in ([], ["--check"]):
            assert ansible.run("ansible-playbook", playbook, *options).code == 0

    def test_documented_results_are_returned(self, ansible: Ansible, server: Server) -> None:
        name = f"{COLLECTION}.nrepl_eval"
        told = ansible.run("ansible-doc", "-j", name).json[name]["return"]
        # Ansible shows it in another way than as a key.
        told.pop("skipped")
        results = [
            (ansible.module("nrepl_eval", port=server.address.port, code="(+ 1 41)"), {"success", ONCE_ANSWERED}),
            (
                ansible.module("nrepl_eval", "--check", port=server.address.port, code="(+ 1 41)"),
                {"success", ONCE_ANSWERED},
            ),
            (ansible.failure("nrepl_eval", port=server.address.port, code="(/ 1 0 0)"), {"failure", ONCE_ANSWERED}),
            (ansible.failure("nrepl_eval", port=1, code="(+ 1 41)"), {"failure"}),
        ]
        for result, when in results:
            shown = {"changed", "skipped", "failed", "msg", "exception"}
            found = {key: value for key, value in result.items() if key not in shown}
            assert_told(keys_told(told, {None, *when}), found, "nrepl_eval")

    def test_code_is_not_shown(self, ansible: Ansible, server: Server, tmp_path: Path) -> None:
        task = {f"{COLLECTION}.nrepl_eval": {"port": server.address.port, "code": self.SECRET}}
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
        done = ansible.run("ansible-playbook", playbook, "-vvv", "--diff")
        assert done.code == 0, done
        assert "the secret of 42" in done.stdout
        assert "(* 2 21)" not in done.stdout + done.stderr
