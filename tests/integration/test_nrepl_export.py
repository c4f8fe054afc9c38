# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports of real servers by functions and expressions: what comes back, and every way in which it can fail."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.client import Client
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.deadline import Deadline
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import pull
from ansible_collections.embedded.db_backup.tests.fixtures import nrepl_servers
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import (
    THREADS,
    Job,
    literal,
    nothing_left,
    without_bindings,
)
from ansible_collections.embedded.db_backup.tests.tools import (
    Ansible,
    Command,
    assert_told,
    eventually,
    keys_told,
    process,
    snapshot,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Data with all that can go wrong in it, and functions that export it, well and badly.
APPLICATION = r"""
(do
  (ns my.app)
  (def planes
    (apply str (mapcat (fn [point] [(String. (Character/toChars point)) " \"\\\n\t"])
                       (remove (fn [point] (<= 0xd800 point 0xdfff))
                               (concat (range 1 0x3000 7) (range 0x3000 0x10ffff 997))))))
  (def emoji (apply str (repeat 5000 "😀👩‍👩‍👧")))
  (def data
    [{:planes planes :emoji emoji :text (mapv str (range 1000))}
     [\a \newline \space \" \\ \é \u2603 \( \;]
     [1/3 -22/7 1.5M 12345678901234567890N 1e-300 -0.0 ##Inf ##-Inf Long/MIN_VALUE]
     [#inst "2026-11-21T01:30:00.123-00:00" #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc"
      (tagged-literal 'my/tag {:a [1 2]})]
     {[1 #{2 {:x '(y z)}}] {nil true, false :a/b}, 'sym/bol #{}}])
  (def calls (atom 0))
  (defn export! [path] (swap! calls inc) (spit path (pr-str data)))
  (defn renames! [path]
    (spit (str path ".new") (pr-str data))
    (.renameTo (java.io.File. (str path ".new")) (java.io.File. path)))
  (defn shouts! [path] (dotimes [n 20000] (println "log line" n "😀")) (export! path))
  (defn half! [path] (spit path "[{:a 1} {:b") (throw (ex-info "the disk is on fire" {})))
  (defn torn! [path] (spit path "[{:a 1} {:b"))
  (defn empty! [path] (spit path ""))
  (defn nothing! [path] path)
  (defn object! [path] (spit path (pr-str [(Object.)])))
  (defn shortened! [path] (binding [*print-length* 3] (spit path (pr-str (range 100)))))
  (def endless (fn [] (map (fn [n] {:n n :text "some text that is repeated for ever"}) (range))))
  (defn fails-at [limit] (map (fn [n] (if (< n limit) {:n n} (throw (ex-info "no more of it" {})))) (range)))
  (in-ns 'user)
  nil)
"""


@pytest.fixture(scope="module")
def application(jvm: Server) -> Server:
    """A server with the application."""
    jvm.evaluate(APPLICATION)
    return jvm


@pytest.fixture
def job(dbbackup: Command, application: Server, tmp_path: Path) -> Job:
    """A job at that server."""
    directory = tmp_path / "shared"
    directory.mkdir()
    return Job(dbbackup, application, options={"directory": str(directory)})


@pytest.fixture
def shared(job: Job) -> Path:
    """Where the files of way file are made."""
    return Path(job.options["directory"])


def read_back(server: Server, path: Path) -> str:
    """What the server says of the exported data, read by its reader, beside the data that it has."""
    read = f"(clojure.edn/read-string {{:default tagged-literal}} (slurp {literal(path)}))"
    return server.evaluate(f"(do (require 'clojure.edn) (= my.app/data {read}))")


class TestWays:
    @pytest.mark.parametrize("way", ["auto", "pull", "file", "value"])
    @pytest.mark.parametrize("subject", [{"function": "my.app/export!"}, {"expression": "my.app/data"}], ids=str)
    def test_what_was_exported_is_equal_when_it_is_read_back(
        self, job: Job, tmp_path: Path, shared: Path, way: str, subject: dict[str, str]
    ) -> None:
        if way == "value" and "function" in subject:
            assert "way value" in job.fails(2, way=way, **subject)
            return
        with nothing_left(job.server):
            manifest = job.run(way=way, **subject)
        assert read_back(job.server, job.restored(tmp_path / "restored.edn")) == "true"
        assert os.listdir(shared) == []
        source = manifest["source"]
        assert (source["way"], manifest["backup"]["method"]) == (way if way != "auto" else "pull",) * 2
        assert manifest["backup"]["consistency"] == "logical"
        assert source["records"] == 5
        assert [(file["path"], file["mode"]) for file in manifest["files"]] == [("export.edn", 0o600)]
        assert manifest["check"]["opened"]

    @pytest.mark.parametrize("way", ["pull", "file", "value"])
    def test_the_same_on_a_unix_socket(
        self, dbbackup: Command, jvm_on_socket: Server, tmp_path: Path, way: str
    ) -> None:
        jvm_on_socket.evaluate(APPLICATION)
        job = Job(dbbackup, jvm_on_socket, options={"directory": str(tmp_path)})
        with nothing_left(jvm_on_socket):
            manifest = job.run(way=way, expression="my.app/data")
        assert manifest["source"]["path"].startswith(f"nrepl://{jvm_on_socket.address.socket}/expression-")
        assert read_back(jvm_on_socket, job.restored(tmp_path / "restored.edn")) == "true"

    def test_a_text_is_taken_as_it_is(self, job: Job, tmp_path: Path) -> None:
        job.run(expression='(str "[1 2" " {:a 3}]")')
        assert job.restored(tmp_path / "restored.edn").read_text() == "[1 2 {:a 3}]"

    @pytest.mark.parametrize("function", ["my.app/renames!", "my.app/shouts!"])
    @pytest.mark.parametrize("way", ["pull", "file"])
    def test_functions_may_rename_and_may_log(self, job: Job, tmp_path: Path, function: str, way: str) -> None:
        with nothing_left(job.server):
            job.run(function=function, way=way)
        assert read_back(job.server, job.restored(tmp_path / "restored.edn")) == "true"

    def test_the_expression_itself_is_written_nowhere(self, job: Job) -> None:
        manifest = job.run(expression='(do "a secret" my.app/data)')
        assert len(manifest["source"]["expression_sha256"]) == 64
        for content in job.published().values():
            assert b"a secret" not in (content or b"")

    @pytest.mark.parametrize("way", ["pull", "file", "value"])
    def test_what_a_server_has_set_for_its_printer_does_not_matter(self, job: Job, tmp_path: Path, way: str) -> None:
        settings = {"*print-length*": "1", "*print-level*": "1", "*print-meta*": "true", "*print-dup*": "true"}
        before = {name: job.server.evaluate(name) for name in settings}
        with without_bindings(job.server) as port:
            try:
                for name, value in settings.items():
                    job.server.evaluate(f"(do (alter-var-root #'{name} (constantly {value})) nil)")
                job.run(expression="my.app/data", way=way, port=port)
            finally:
                for name, value in before.items():
                    job.server.evaluate(f"(do (alter-var-root #'{name} (constantly {value})) nil)")
        assert read_back(job.server, job.restored(tmp_path / "restored.edn")) == "true"

    def test_a_directory_of_any_name(self, job: Job, tmp_path: Path) -> None:
        directory = tmp_path / 'it\'s "quoted" \\ ü 😀\nand more'
        directory.mkdir()
        for subject in ({"function": "my.app/export!"}, {"expression": "my.app/data"}):
            job.run(way="file", directory=str(directory), **subject)
            assert read_back(job.server, job.restored(tmp_path / "restored.edn")) == "true"
        assert os.listdir(directory) == []

    def test_what_a_killed_run_left_is_removed(self, job: Job, shared: Path) -> None:
        (shared / "db-backup-export-dead").mkdir()
        (shared / "db-backup-export-dead/export.edn").write_text("[]")
        (shared / "of others").mkdir()
        job.run(way="file", expression="my.app/data")
        assert os.listdir(shared) == ["of others"]


class TestFailures:
    @pytest.mark.parametrize(
        ("way", "subject", "words"),
        [
            ("pull", {"function": "my.app/half!"}, "the disk is on fire"),
            ("file", {"function": "my.app/half!"}, "the disk is on fire"),
            ("pull", {"function": "my.app/torn!"}, "open brackets"),
            ("file", {"function": "my.app/torn!"}, "open brackets"),
            ("pull", {"function": "my.app/empty!"}, "it is empty"),
            ("pull", {"function": "my.app/object!"}, "nothing can read back"),
            ("pull", {"function": "my.app/shortened!"}, "left something out"),
            ("pull", {"function": "my.app/none!"}, "there is no my.app/none!"),
            ("file", {"function": "no.such.place/export!"}, "no/such/place"),
            ("pull", {"expression": "(my.app/fails-at 100000)"}, "no more of it"),
            ("file", {"expression": "(my.app/fails-at 100000)"}, "no more of it"),
            ("value", {"expression": "(my.app/fails-at 100000)"}, "no more of it"),
            ("pull", {"expression": "(promise)"}, "nothing can read back"),
            ("value", {"expression": "(Object.)"}, "nothing can read back"),
            ("pull", {"expression": "nil"}, "no collection"),
            ("pull", {"expression": "; nothing"}, "identity"),
            ("value", {"expression": '""'}, "it is empty"),
            ("pull", {"expression": "(+ 1"}, "delimiter"),
            ("value", {"expression": "[1] [2]"}, "identity"),
            ("pull", {"expression": "no.such.place/data"}, "no.such.place"),
            ("pull", {"expression": '[(str (char 0xd83d) "half")]'}, "half of a surrogate pair"),
            ("file", {"expression": '[(str (char 0xd83d) "half")]'}, "half of a surrogate pair"),
            ("value", {"expression": '[(str (char 0xd83d) "half")]'}, "half of a surrogate pair"),
            ("pull", {"expression": "[(char 0)]"}, "zero byte"),
            ("pull", {"expression": "[{:a 1} {:b 2}]", "min_records": 3}, "2 records, fewer than min_records, 3"),
        ],
        ids=str,
    )
    def test_nothing_is_published(self, job: Job, shared: Path, way: str, subject: dict[str, Any], words: str) -> None:
        job.run(expression="[[1]]")
        with nothing_left(job.server):
            assert words in job.fails(way=way, **subject)
        assert os.listdir(shared) == []

    @pytest.mark.parametrize("way", ["pull", "file"])
    def test_a_function_that_writes_nothing(self, job: Job, way: str) -> None:
        with nothing_left(job.server):
            sentence = job.fails(function="my.app/nothing!", way=way)
        assert "wrote no file" in sentence or "No such file" in sentence

    def test_verify_false_lets_nothing_bad_pass(self, job: Job) -> None:
        assert "open brackets" in job.fails(function="my.app/torn!", verify=False)

    @pytest.mark.parametrize("way", ["pull", "file", "value"])
    def test_what_is_not_what_the_server_hashed(self, job: Job, shared: Path, way: str) -> None:
        job.run(expression="[[1]]")
        job.server.evaluate('(do (def honest format) (alter-var-root #\'format (constantly (constantly "ab"))) nil)')
        try:
            with nothing_left(job.server):
                assert "did not arrive as the server made it" in job.fails(expression="[[1]]", way=way)
        finally:
            job.server.evaluate("(do (alter-var-root #'format (constantly honest)) nil)")
        assert os.listdir(shared) == []

    @pytest.mark.parametrize("way", ["pull", "value"])
    def test_an_export_that_does_not_end(self, job: Job, way: str) -> None:
        with nothing_left(job.server):
            sentence = job.fails(expression="(my.app/endless)", way=way, timeout=4)
        assert "4 seconds" in sentence

    def test_what_asks_for_input(self, job: Job) -> None:
        with nothing_left(job.server):
            assert "waits for input" in job.fails(expression="[(read-line)]", way="value", timeout=60)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, "none of them is given"),
            ({"function": "my.app/a", "expression": "1"}, "not function and expression together"),
            ({"database": "datascript"}, "belong together"),
            ({"function": "my.app/a", "connection": "my.app/conn"}, "belong together"),
            ({"database": "oracle", "connection": "my.app/conn"}, "database 'oracle' is not known"),
            ({"database": "datascript", "connection": "conn"}, "connection 'conn' is not a name with its namespace"),
            ({"function": "my.app/a)\n"}, "is not a name"),
            ({"function": "my.app/a\n"}, "is not a name"),
            ({"function": "export"}, "such as my.app/function"),
            ({"expression": " "}, "expression is empty"),
            ({"expression": "1", "content": "datoms"}, "only for a database"),
            ({"database": "datalevin", "connection": "a/b", "content": "tx_log"}, "is for database datascript only"),
            ({"database": "datascript", "connection": "a/b", "install_listener": True}, "is for content tx_log only"),
            ({"expression": "1", "listener_limit": 0}, "listener_limit 0"),
            ({"expression": "1", "full_every": 1001}, "full_every 1001 is out of range; give 1 to 500"),
            ({"expression": "1", "way": "mail"}, "way 'mail' is not known"),
            ({"expression": "1", "min_records": -1}, "min_records -1"),
            ({"expression": "1", "directory": "shared"}, "not absolute"),
            ({"expression": "1", "timeout": 0}, "timeout 0"),
            ({"expression": "1", "socket": "/x"}, "port and socket"),
        ],
        ids=str,
    )
    def test_options_that_make_no_sense(self, job: Job, options: dict[str, Any], words: str) -> None:
        job.options.clear()
        assert words in job.fails(2, **options)

    def test_restore_asks_where_to(self, job: Job, dbbackup: Command, tmp_path: Path) -> None:
        job.run(expression="my.app/data")
        assert "dest" in dbbackup.fails(1, "restore", job.name)
        assert "is a directory" in dbbackup.fails(2, "restore", job.name, "--dest", tmp_path)

    def test_a_backup_that_was_changed_does_not_verify(self, job: Job, dbbackup: Command) -> None:
        job.run(expression="my.app/data", compression="none")
        dbbackup.ok("verify", job.name)
        assert "5 records" in str(dbbackup.ok("drill", job.name)["proven"])
        (stored,) = (dbbackup.repository / job.name).glob("2*/export.edn")
        stored.write_bytes(stored.read_bytes().replace(b"my/tag", b"my/gat"))
        assert "export.edn" in dbbackup.fails(1, "verify", job.name)


@contextmanager
def started(job: Job, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is in the midst of its export."""
    job.described(**options)
    with process(job.dbbackup.arguments("run", job.name), stderr=subprocess.PIPE) as run:
        eventually(lambda: job.server.evaluate(THREADS) == "1", "an export that is under way")
        yield run


class TestKilled:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_a_killed_run_leaves_nothing_in_the_server(self, job: Job, number: signal.Signals) -> None:
        before = job.server.sessions()
        with started(job, expression="(my.app/endless)", timeout=10) as run:
            run.send_signal(number)
            run.communicate(timeout=60)
        eventually(lambda: job.server.evaluate(THREADS) == "0", "no thread of the export", 60)
        if number == signal.SIGTERM:
            assert run.returncode == 130
            assert job.server.sessions() <= before
        assert job.dbbackup.backups(job.name) == []
        # It would not stop sending if its state was not gone.
        assert job.run(expression="my.app/data")["source"]["records"] == 5

    def test_a_session_that_is_left_holds_one_piece(self, jvm: Server) -> None:
        """Neither what nobody fetches stays there, nor what was fetched before."""
        noise = "(let [noise (byte-array 1500000)] (.nextBytes (java.util.Random. 1) noise) (.write stream noise))"
        with Client(jvm.address, Deadline(120)) as client:
            thread = pull._Thread(client, Deadline(3))
            thread.begin(f'(do {noise} "told")')
            assert [len(thread.fetch()) > 1 << 18 for _piece in range(2)] == [True, True]
            assert client.evaluate("(mapv string? [*1 *2 *3])").only_value() == "[true false false]"
            waiting = "(class (.peek ^java.util.Queue (:pieces *command-line-args*)))"
            assert client.evaluate(waiting).only_value() in ("[B", "java.lang.String")
            eventually(
                lambda: client.evaluate(waiting).only_value() == "java.lang.InterruptedException",
                "what nobody fetches is dropped",
            )

    @pytest.mark.parametrize("way", ["pull", "file", "value"])
    def test_a_server_that_dies(self, dbbackup: Command, tmp_path: Path, way: str) -> None:
        with own_server(tmp_path) as server:
            server.evaluate(APPLICATION)
            job = Job(dbbackup, server, options={"directory": str(tmp_path)})
            job.run(expression="my.app/data")
            die = "(.halt (Runtime/getRuntime) 1)"
            slowly = f"(map (fn [n] (if (= n 300000) {die} {{:n n}})) (range))"
            sentence = job.fails(expression=slowly, way=way, timeout=120)
        assert "closed the connection" in sentence or "reset" in sentence

    def test_a_server_that_stops(self, dbbackup: Command, tmp_path: Path) -> None:
        with own_server(tmp_path) as server:
            server.evaluate(APPLICATION)
            job = Job(dbbackup, server)
            job.run(expression="my.app/data")
            before = server.sessions()
            with started(job, expression="(my.app/endless)", timeout=15) as run:
                server.signal(signal.SIGSTOP)
                _output, complaint = run.communicate(timeout=90)
            assert run.returncode == 1, complaint
            assert "15 seconds" in complaint.decode()
            assert len(dbbackup.backups(job.name)) == 1
            server.signal(signal.SIGCONT)
            eventually(lambda: server.evaluate(THREADS) == "0", "no thread of the export", 90)
            eventually(lambda: server.sessions() <= before, "no session of the run")


@contextmanager
def own_server(folder: Path) -> Iterator[Server]:
    """A server that may be harmed."""
    try:
        (folder / "server").mkdir()
        with nrepl_servers.jvm(folder / "server") as server:
            yield server
    except nrepl_servers.MissingError as missing:
        pytest.skip(str(missing))


class TestOthers:
    """Servers that are not on a JVM."""

    @pytest.mark.parametrize("kind", ["nbb", "basilisp"])
    @pytest.mark.parametrize(("by", "way"), [*itertools.product(["function", "expression"], ["auto", "file"])])
    def test_what_was_exported_is_equal_when_it_is_read_back(  # noqa: PLR0917 - pytest gives them by name
        self, dbbackup: Command, request: pytest.FixtureRequest, tmp_path: Path, kind: str, way: str, by: str
    ) -> None:
        server: Server = request.getfixturevalue(kind)
        edn = {"nbb": "clojure.edn", "basilisp": "basilisp.edn"}[kind]
        write = {
            "nbb": '(.writeFileSync (js/process.getBuiltinModule "fs") path (pr-str data))',
            "basilisp": '(spit path (basilisp.edn/write-string data) :encoding "utf-8")',
        }[kind]
        text = r'(apply str (repeat 1000 "😀 é \"quoted\" \\ \n \u0001 "))'
        server.evaluate(f"(require '[{edn}])")
        server.evaluate(f"(def data [{{:text {text} :n [1 -1.5 nil true :a/b 'c/d ##Inf] :s #{{1 2}}}} [[1] [2] [3]]])")
        server.evaluate(f"(do (defn export! [path] {write}) nil)")
        job = Job(dbbackup, server, options={"directory": str(tmp_path)})
        subject = {"function": "user/export!"} if by == "function" else {"expression": "user/data"}
        with nothing_left(server, on_jvm=False):
            source = job.run(way=way, **subject)["source"]
        assert source["way"] == ("file" if way == "file" or by == "function" else "value")
        assert source["records"] == 3
        restored = job.restored(tmp_path / "restored.edn")
        read = {
            "nbb": f'(.readFileSync (js/process.getBuiltinModule "fs") {literal(restored)} "utf8")',
            "basilisp": f'(slurp {literal(restored)} :encoding "utf-8")',
        }[kind]
        assert server.evaluate(f"(= data ({edn}/read-string {read}))") == "true"

    @pytest.mark.parametrize(
        ("kind", "subject", "words"),
        [
            ("nbb", {"expression": "(js/Promise.resolve [1])"}, "there is a promise, and no data yet"),
            ("nbb", {"expression": '[(str "a" (js/String.fromCharCode 0xd83d))]'}, "half of a surrogate pair"),
            ("nbb", {"expression": "[js/process.exit]"}, "nothing can read back"),
            ("nbb", {"function": "user/none!"}, "there is no user/none!"),
            ("nbb", {"expression": "no-such-thing"}, "no-such-thing"),
            ("nbb", {"expression": "[1]", "way": "pull"}, "way pull needs a server on a JVM"),
            ("basilisp", {"expression": "[1]", "way": "pull"}, "way pull needs a server on a JVM"),
            ("basilisp", {"function": "user/none!"}, "there is no user/none!"),
            ("basilisp", {"expression": "[(fn [])]"}, "No implementation of method"),
            ("basilisp", {"expression": "(/ 1 0)"}, "ZeroDivisionError"),
            ("basilisp", {"database": "datascript", "connection": "user/conn"}, "datascript"),
        ],
        ids=str,
    )
    def test_nothing_is_published(
        self, dbbackup: Command, request: pytest.FixtureRequest, kind: str, subject: dict[str, str], words: str
    ) -> None:
        job = Job(dbbackup, request.getfixturevalue(kind))
        with nothing_left(job.server, on_jvm=False):
            assert words in job.fails(2 if words.startswith("way") or words == "datascript" else 1, **subject)

    def test_a_node_that_dies(self, dbbackup: Command, tmp_path: Path) -> None:
        (tmp_path / "server").mkdir()
        try:
            with nrepl_servers.nbb(tmp_path / "server") as server:
                job = Job(dbbackup, server)
                job.run(expression="[[1]]")
                sentence = job.fails(expression="(js/process.exit 1)", timeout=60)
        except nrepl_servers.MissingError as missing:
            pytest.skip(str(missing))
        assert "closed the connection" in sentence or "reset" in sentence


class TestModule:
    def test_check_mode_exports_nothing_and_has_the_same_keys(
        self, ansible: Ansible, application: Server, tmp_path: Path
    ) -> None:
        place = {"name": "kg", "repository": str(tmp_path / "repository"), **application.options}
        calls = application.evaluate("@my.app/calls")
        before = snapshot(tmp_path)
        predicted = ansible.module("nrepl_export", "--check", "--diff", **place, function="my.app/export!")
        assert application.evaluate("@my.app/calls") == calls
        assert snapshot(tmp_path) == before
        real = ansible.module("embedded.db_backup.nrepl_export", "--diff", **place, function="my.app/export!")
        assert predicted.keys() == real.keys()
        assert predicted["backup"]["source"].keys() <= real["backup"]["source"].keys()
        assert (predicted["changed"], real["changed"]) == (True, True)
        assert predicted["backup"]["source"]["way"] == "pull"
        failed = ansible.failure("nrepl_export", "--check", **place, function="my.app/none!")
        assert "there is no my.app/none!" in failed["msg"]

    def test_short_name_with_simple_arguments(self, ansible: Ansible, application: Server, tmp_path: Path) -> None:
        arguments = f"name=kg port={application.address.port} function=my.app/export! repository={tmp_path}/repository"
        done = ansible.run("ansible", "localhost", "-m", "nrepl_export", "-a", arguments)
        result = done.json["plays"][0]["tasks"][0]["hosts"]["localhost"]
        assert result["changed"], done

    def test_documented_results_are_returned(self, ansible: Ansible, application: Server, tmp_path: Path) -> None:
        place = {"name": "kg", "repository": str(tmp_path / "repository"), **application.options}
        done = ansible.run("ansible-doc", "-j", "embedded.db_backup.nrepl_export")
        returned = done.json["embedded.db_backup.nrepl_export"]["return"]
        always: set[str | None] = {None, "success"}
        for options, when in (["--check"], always), ([], always | {"success, outside of check mode"}):
            result = ansible.module("nrepl_export", *options, **place, expression="my.app/data", keep_last=2)
            told = keys_told(returned, when)
            # Ansible shows it in another way than as a key.
            told.pop("skipped", None)
            assert_told(told, {key: result[key] for key in result.keys() - {"changed", "warnings"}}, "nrepl_export")

    def test_no_server(self, ansible: Ansible, tmp_path: Path) -> None:
        place = {"name": "kg", "repository": str(tmp_path / "repository"), "socket": str(tmp_path / "none")}
        failed = ansible.failure("nrepl_export", **place, expression="[1]")
        assert failed["exit_code"] == 1
        assert "no nREPL server answers" in failed["msg"]

    def test_a_server_that_does_not_answer_is_no_wrong_option(self, dbbackup: Command, tmp_path: Path) -> None:
        """Only of nrepl-eval it is told by an exit code of its own."""
        file = dbbackup.job("kg", "", type="nrepl", socket=str(tmp_path / "none"), expression="[1]")
        file.write_text(file.read_text().replace('"path": "", ', ""))
        for command in ("run", "check"):
            told = dbbackup(command, "kg")
            assert (told.code, "no nREPL server answers" in told.stdout + told.stderr) == (1, True), told
        assert "no nREPL server answers" in dbbackup.fails(2, "nrepl-eval", "1", "--socket", tmp_path / "none")

    def test_playbook(self, ansible: Ansible, application: Server, tmp_path: Path) -> None:
        described = {"type": "nrepl", "repository": str(tmp_path / "repository"), **application.options}
        jobs = [
            {**described, "name": "good", "expression": "my.app/data", "way": "value", "min_records": 5},
            {**described, "name": "bad", "function": "my.app/half!"},
        ]
        hosts = {
            "web1": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "backup_jobs": jobs}
        }
        (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
        done = ansible.run("ansible-playbook", "-i", tmp_path / "inventory.yml", "playbooks/backup.yml")
        assert done.code == 2, done
        tasks = {task["task"]["name"]: task["hosts"] for task in done.json["plays"][0]["tasks"]}
        message = tasks["Fail when a job did"]["web1"]["msg"]
        assert message.startswith("bad: ")
        assert "the disk is on fire" in message
        assert (tmp_path / "repository/good/state.json").exists()
        assert json.loads((tmp_path / "repository/good/state.json").read_text())["last_success"]
