# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports that are loaded back into real live databases: equal by their own =, all or nothing, whatever goes wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import (
    MissingError,
    Server,
    datalevin,
    jvm,
    nbb_logseq,
)
from ansible_collections.embedded.db_backup.tests.nrepl_exports import row
from ansible_collections.embedded.db_backup.tests.tools import Ansible, Command, eventually

# A sign of every plane of Unicode that has any, those that end lines, and what a printer must escape.
SIGNS = "".join(map(chr, [9, 10, 13, 34, 92, 127, 0x85, 0xA0, 0x2028, 0xFEFF, 0xFFFD, 0x1F600, 0x20000, 0x30000]))
SIGNS += "".join(map(chr, [0x40000, 0x9FFFD, 0xE0001, 0xF0000, 0x10FFFD]))
DATASCRIPT_SCHEMA = "{:tag {:db/cardinality :db.cardinality/many} :ref {:db/valueType :db.type/ref}}"

_numbers = itertools.count()


@contextlib.contextmanager
def provided(server: contextlib.AbstractContextManager[Server]) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(server)
        except MissingError as missing:
            pytest.skip(str(missing))
        yield started


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with DataScript."""
    with provided(nbb_logseq(tmp_path_factory.mktemp("nbb"))) as server:
        yield server


@pytest.fixture(scope="module")
def levin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with Datalevin."""
    with provided(datalevin(tmp_path_factory.mktemp("datalevin"))) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a database."""
    with provided(jvm(tmp_path_factory.mktemp("jvm"))) as server:
        yield server


@pytest.fixture
def name() -> str:
    """Of a var that no other test has."""
    return f"conn{next(_numbers)}"


@pytest.fixture
def notes(dbbackup: Command, script: Server, name: str) -> str:
    """The job of a DataScript database with values of all kinds, which was backed up; the name of its var."""
    script.evaluate(f"(def {name} (datascript.core/create-conn {DATASCRIPT_SCHEMA}))")
    script.evaluate(
        f"""(let [] (datascript.core/transact! {name}
      [[:db/add 3 :text {clojure(SIGNS)}] [:db/add 3 :tag :x] [:db/add 3 :tag :y/z] [:db/add 9 :ref 3]
       [:db/add 3 :nested {{:a [1 #{{2 nil}} (list 3 {{"b" 4.5}})]}}] [:db/add 9 :gone 1]
       [:db/add 9 :tagged (tagged-literal 'foo/bar [1 2])]
       [:db/add 9 :date #inst "2020-01-01T00:00:00.001-00:00"] [:db/add 9 :symbol 'a/b] [:db/add 9 :true false]
       [:db/add 9 :id #uuid "cf5b9d3c-7b4f-4ae0-8b3e-2d3a0f7f9a11"] [:db/add 9 :large 9007199254740991]])
      (datascript.core/transact! {name} [[:db/retract 9 :gone 1]]) 1)"""
    )
    return backed_up(dbbackup, script, name, "datascript")


def clojure(text: str) -> str:
    """A literal; the server reads it, so it is escaped in another way than our own code does."""
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2)) + '"'


def backed_up(dbbackup: Command, server: Server, name: str, database: str) -> str:
    of_database = {"database": database, "connection": f"user/{name}"}
    dbbackup.job("notes", "", type="nrepl", **server.options, **of_database)
    file = dbbackup.jobs / "notes.json"
    file.write_text(file.read_text().replace('"path": "", ', ""))
    dbbackup.ok("run", "notes")
    return name


def empty(server: Server, name: str) -> str:
    """Another DataScript database, empty."""
    server.evaluate(f"(def {name}-copy (datascript.core/create-conn {{}}))")
    return f"user/{name}-copy"


def into(server: Server, connection: str) -> list[str]:
    return ["--port", str(server.address.port), "--connection", connection]


def count(server: Server, connection: str) -> int:
    return int(server.evaluate(f"(count (datascript.core/datoms @{connection} :eavt))"))


def nothing_waits(server: Server) -> bool:
    return server.evaluate("(some-> (resolve 'embedded.db-backup/arrival) deref)") == "nil"


def test_datascript_comes_back_equal(dbbackup: Command, script: Server, notes: str) -> None:
    copy = empty(script, notes)
    told = dbbackup.ok("restore", "notes", *into(script, copy))
    numbers = {"datoms": 11, "basis": 536870914}
    assert (told["changed"], told["before"]["datoms"], told["after"], told["replaced"]) == (True, 0, numbers, None)
    assert script.evaluate(f"(let [a @{notes} b @{copy}] [(= a b) (:max-tx b) (:max-eid b)])") == "[true 536870914 9]"
    assert script.evaluate(f"(:text (datascript.core/entity @{copy} 3))") == script.evaluate(clojure(SIGNS))
    assert script.evaluate(f"(= (:schema @{notes}) (:schema @{copy}))") == "true"
    # The copy goes on from there, and exported it is the same text.
    original = told["backup"]["files"][0]["sha256"]
    file = dbbackup.jobs / "notes.json"
    file.write_text(file.read_text().replace(f"user/{notes}", copy))
    assert dbbackup.ok("run", "notes")["backup"]["files"][0]["sha256"] == original
    script.evaluate(f"(let [] (datascript.core/transact! {copy} [[:db/add 10 :n 1]]) 1)")
    assert script.evaluate(f"(:max-tx @{copy})") == "536870915"
    assert nothing_waits(script)


def test_what_is_not_equal_to_itself_comes_back(dbbackup: Command, script: Server, name: str) -> None:
    script.evaluate(f"(def {name} (datascript.core/create-conn {{}}))")
    datoms = "[:db/add 1 :n ##NaN] [:db/add 1 :i ##-Inf] [:db/add 1 :b (js/Uint8Array.from #js [0 255])]"
    script.evaluate(f"(let [] (datascript.core/transact! {name} [{datoms}]) 1)")
    copy = empty(script, backed_up(dbbackup, script, name, "datascript"))
    dbbackup.ok("restore", "notes", *into(script, copy))
    entity = f"(datascript.core/entity @{copy} 1)"
    found = f"(let [e {entity}] [(js/isNaN (:n e)) (:i e) (vec (js/Array.from (:b e)))])"
    assert script.evaluate(found) == "[true ##-Inf [0 255]]"


def test_only_an_empty_database_is_loaded_into_unless_forced(dbbackup: Command, script: Server, notes: str) -> None:
    copy = empty(script, notes)
    script.evaluate(f"(let [] (datascript.core/transact! {copy} [[:db/add 1 :old 1]]) (def {notes}-old @{copy}) 1)")
    error = dbbackup.fails(1, "restore", "notes", *into(script, copy))
    assert error.endswith(f"{copy} is not empty, it holds 1 datoms; with force it is replaced")
    assert script.evaluate(f"(= @{copy} {notes}-old)") == "true"
    told = dbbackup.ok("restore", "notes", *into(script, copy), "--force")
    assert (told["before"]["datoms"], told["after"]["datoms"]) == (1, 11)
    assert script.evaluate(f"[(= @{copy} @{notes}) (= @(resolve '{told['replaced']}) {notes}-old)]") == "[true true]"


@pytest.mark.parametrize("options", [(), ("--force",), ("--dry-run",)])
def test_into_a_database_that_has_it_nothing_is_loaded(
    dbbackup: Command, script: Server, notes: str, options: tuple[str, ...]
) -> None:
    copy = empty(script, notes)
    dbbackup.ok("restore", "notes", *into(script, copy))
    script.evaluate(f"(def {notes}-value @{copy})")
    told = dbbackup.ok("restore", "notes", *into(script, copy), *options)
    assert (told["changed"], told["before"], told["replaced"]) == (False, told["after"], None)
    assert script.evaluate(f"(identical? @{copy} {notes}-value)") == "true"
    # As many datoms and as many transactions, but others.
    script.evaluate(
        f"(let [] (reset! {copy} (datascript.core/init-db (for [d (datascript.core/datoms @{notes} :eavt)]"
        f" (datascript.core/datom (:e d) (:a d) (if (= :large (:a d)) 7 (:v d)) (:tx d))) (:schema @{copy})))"
        f" (swap! {copy} assoc :max-tx 536870914) 1)"
    )
    if options != ("--force",):
        assert "is not empty" in dbbackup.fails(1, "restore", "notes", *into(script, copy), *options)
    else:
        assert dbbackup.ok("restore", "notes", *into(script, copy), *options)["changed"]
    assert nothing_waits(script)


def test_a_prediction_only_looks(dbbackup: Command, script: Server, notes: str) -> None:
    copy = empty(script, notes)
    told = dbbackup.ok("restore", "notes", *into(script, copy), "--dry-run")
    assert (told["before"], told["after"]["datoms"]) == ({"datoms": 0, "basis": 536870912}, 11)
    assert count(script, copy) == 0
    script.evaluate(f"(let [] (datascript.core/transact! {copy} [[:db/add 1 :old 1]]) 1)")
    assert "is not empty" in dbbackup.fails(1, "restore", "notes", *into(script, copy), "--dry-run")


def test_of_a_damaged_backup_nothing_is_sent(dbbackup: Command, script: Server, notes: str) -> None:
    copy = empty(script, notes)
    script.evaluate("(intern (create-ns 'embedded.db-backup) 'arrival :untouched)")
    (stored,) = dbbackup.repository.glob("notes/*/export.edn.zst")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    backup_id = stored.parent.name
    error = dbbackup.fails(1, "restore", "notes", "--id", backup_id, *into(script, copy))
    assert f"backup {backup_id} of job notes: export.edn.zst: " in error
    assert script.evaluate("@(resolve 'embedded.db-backup/arrival)") == ":untouched"
    script.evaluate("(let [] (intern 'embedded.db-backup 'arrival nil) 1)")
    assert count(script, copy) == 0


@pytest.mark.parametrize(
    "case",
    [
        ("[1 :n 1 536870913]\n[1 :n 1 536870913]", 2, "entity 1 has a datom twice"),
        ('["x" :n 1 536870913]', 1, "the text is no whole snapshot"),
        ("[1 :n 1]", 1, "the text is no whole snapshot"),
        ("[1 :n 1 536870913] [2 :n 1", 1, None),
        ("[1 :n 1 536870913]", 2, None),
    ],
    ids=["twice", "no-entity", "short", "cut-off", "counts-differ"],
)
def test_a_text_that_is_no_snapshot_changes_nothing(
    dbbackup: Command, script: Server, name: str, request: pytest.FixtureRequest, case: tuple[str, int, str | None]
) -> None:
    datoms, number, problem = case
    copy = empty(script, name)
    options = row(request.getfixturevalue("tmp_path"), datoms, number)
    error = dbbackup.fails(1, "restore", "notes", *options, *into(script, copy))
    if problem is None:
        assert "not sound" in error
    else:
        assert f"{copy}: the evaluation failed" in error
        assert problem in error
        assert error.endswith("; the database is as it was")
    assert count(script, copy) == 0
    assert nothing_waits(script)


def test_a_log_of_transactions_leads_to_every_state(dbbackup: Command, script: Server, name: str) -> None:
    script.evaluate(f"(def {name} (datascript.core/create-conn {DATASCRIPT_SCHEMA}))")
    given = {"database": "datascript", "connection": f"user/{name}", "content": "tx_log", "install_listener": True}
    file = dbbackup.job("notes", "", type="nrepl", **script.options, **given)
    file.write_text(file.read_text().replace('"path": "", ', ""))
    for number in range(1, 4):
        # One attribute changes, of another one values are added, an entity goes, and a value comes back.
        script.evaluate(f"""(let [transact datascript.core/transact!]
          (transact {name} [[:db/add 1 :n {number}] [:db/add 1 :tag :t{number}] [:db/add {number + 1} :text "t"]])
          (transact {name} [[:db/add 9 :set #{{:one {number} [##NaN]}}] [:db/add 2 :nan ##NaN]])
          (transact {name} [[:db/retract 2 :nan ##NaN] [:db/retractEntity {number}]])
          (transact {name} [[:db/add 1 :again 1] [:db/add {number + 2} :tag :x]])
          (def {name}-{number} @{name}) 1)""")
        dbbackup.ok("run", "notes")
    assert len(dbbackup.backups("notes")) == 3
    datoms = "(pr-str (map (juxt :e :a :v :tx) (datascript.core/datoms c :eavt)))"
    printed = f"(fn [c] [(:schema c) (:max-tx c) (:max-eid c) {datoms}])"
    for number in (3, 2, 1):
        copy = empty(script, name)
        position = script.evaluate(f"(:max-tx {name}-{number})")
        options = [] if number == 3 else ["--position", position]
        told = dbbackup.ok("restore", "notes", *into(script, copy), *options)
        assert (told["changed"], str(told["after"]["basis"])) == (True, position)
        assert script.evaluate(f"(let [told {printed}] (= (told {name}-{number}) (told @{copy})))") == "true"
        assert not dbbackup.ok("restore", "notes", *into(script, copy), *options)["changed"]
    # Between two backups, and of a function, which gets all of it.
    copy = empty(script, name)
    between = str(int(script.evaluate(f"(:max-tx {name}-1)")) + 1)
    assert str(dbbackup.ok("restore", "notes", *into(script, copy), "--position", between)["after"]["basis"]) == between
    assert script.evaluate(f"(:n (datascript.core/entity @{copy} 1))") == "2"


class Gate:
    """Between a client and a server: of the first connection it passes on so many bytes, and then only when told.

    At the end nothing more: nbb ends when it answers to someone who is gone.
    """

    def __init__(self, server: Server, most: int) -> None:
        self._place = ("127.0.0.1", int(server.address.port or 0))
        self._left = most
        self.is_shut = threading.Event()
        self.opened = threading.Event()
        self._has_ended = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._has_ended = True
        self._listener.close()
        self.opened.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                client, _unused = self._listener.accept()
                try:
                    server = socket.create_connection(self._place)
                except OSError:
                    client.close()
                    continue
                threading.Thread(target=self._pass, args=(client, server, number == 0), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_guarded: bool) -> None:
        with contextlib.suppress(OSError), one, other:
            try:
                while data := one.recv(1 << 16):
                    self._left -= len(data) if is_guarded else 0
                    if is_guarded and self._left < 0:
                        self.is_shut.set()
                        self.opened.wait()
                    if self._has_ended:
                        return
                    other.sendall(data)
            finally:
                # To be closed is not noticed by those who wait in another thread.
                for end in (one, other):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def large(dbbackup: Command, script: Server, name: str) -> str:
    """Like notes, so large that it does not go into one message."""
    signs = random.Random(7)
    texts = " ".join(f'"{signs.getrandbits(4000):x}"' for _unused in range(2000))
    script.evaluate(f"(def {name} (datascript.core/create-conn {{}}))")
    script.evaluate(
        f"(let [] (datascript.core/transact! {name} (map-indexed (fn [i t] [:db/add (inc i) :t t]) [{texts}])) 1)"
    )
    return backed_up(dbbackup, script, name, "datascript")


def test_a_killed_client_leaves_the_database_as_it_was(dbbackup: Command, script: Server, large: str) -> None:
    copy = empty(script, large)
    with Gate(script, 900_000) as gate:
        arguments = ["restore", "notes", "--port", gate.port, "--connection", copy]
        with subprocess.Popen(dbbackup.arguments(*arguments), stderr=subprocess.PIPE) as client:
            assert gate.is_shut.wait(60)
            client.kill()
    assert count(script, copy) == 0
    # The next one takes its place.
    dbbackup.ok("restore", "notes", *into(script, copy))
    assert script.evaluate(f"(= @{large} @{copy})") == "true"
    assert nothing_waits(script)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_client_takes_back_what_it_sent(
    dbbackup: Command, script: Server, large: str, number: signal.Signals
) -> None:
    copy = empty(script, large)
    with Gate(script, 900_000) as gate:
        arguments = ["restore", "notes", "--port", gate.port, "--connection", copy]
        with subprocess.Popen(dbbackup.arguments(*arguments), stderr=subprocess.PIPE) as client:
            assert gate.is_shut.wait(60)
            client.send_signal(number)
            assert client.wait(60) == 130
    assert count(script, copy) == 0
    assert nothing_waits(script)


def test_what_takes_too_long_is_taken_back(dbbackup: Command, script: Server, large: str) -> None:
    copy = empty(script, large)
    with Gate(script, 900_000) as gate:
        options = ["--port", gate.port, "--connection", copy, "--load-timeout", "3"]
        error = dbbackup.fails(1, "restore", "notes", *options)
    assert "the 3 seconds for it are over" in error
    assert error.endswith("; the database is as it was")
    assert count(script, copy) == 0
    assert nothing_waits(script)


def test_of_two_loads_the_last_one_counts(dbbackup: Command, script: Server, large: str) -> None:
    first, last = empty(script, large), empty(script, f"{large}-last")
    with Gate(script, 900_000) as gate:
        arguments = ["restore", "notes", "--port", gate.port, "--connection", first]
        with subprocess.Popen(dbbackup.arguments(*arguments), stderr=subprocess.PIPE, text=True) as client:
            assert gate.is_shut.wait(60)
            dbbackup.ok("restore", "notes", *into(script, last))
            gate.opened.set()
            assert (
                "another load has begun on this server; the database is as it was" in client.communicate(timeout=60)[1]
            )
    assert (count(script, first), script.evaluate(f"(= @{large} @{last})")) == (0, "true")


def test_a_killed_server_is_told(dbbackup: Command, large: str, tmp_path: Path) -> None:
    with provided(nbb_logseq(tmp_path)) as other, Gate(other, 900_000) as gate:
        copy = empty(other, large)
        arguments = ["restore", "notes", "--port", gate.port, "--connection", copy]
        with subprocess.Popen(dbbackup.arguments(*arguments), stderr=subprocess.PIPE, text=True) as client:
            assert gate.is_shut.wait(60)
            other.signal(signal.SIGKILL)
            gate.opened.set()
            error = client.communicate(timeout=60)[1]
    assert client.returncode == 1
    assert error.startswith("dbbackup: backup ")
    assert error.endswith("; the database is as it was\n")


def test_what_nobody_takes_back_is_forgotten_in_time(dbbackup: Command, script: Server, large: str) -> None:
    """With a patience of seconds, as the real one is too long for a test."""
    copy = empty(script, large)
    with Gate(script, 900_000) as gate:
        patient = "from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import arrival"
        code = (
            f"{patient}; arrival._PATIENCE = -57; from {patient.split()[1].partition('.sources')[0]}.cli import main; "
        )
        arguments = dbbackup.arguments("restore", "notes", "--port", gate.port, "--connection", copy)[2:]
        code += f"main({[*arguments, '--load-timeout', '60']!r})"
        path = {"PYTHONPATH": str(Path(__file__).parents[2] / ".ansible/collections")}
        with subprocess.Popen([dbbackup.python, "-c", code], env=path, stderr=subprocess.PIPE) as client:
            assert gate.is_shut.wait(60)
            client.kill()
        eventually(lambda: nothing_waits(script), "what was sent is forgotten")
    assert count(script, copy) == 0


@pytest.mark.usefixtures("notes")
def test_of_options_that_make_no_sense_nothing_is_asked(dbbackup: Command, script: Server) -> None:
    def fails(*options: str) -> str:
        return dbbackup.fails(2, "restore", "notes", "--port", "1", *options)

    assert "--dest is for restoring files" in fails("--connection", "a/b", "--dest", "/x")
    assert "give one of them" in fails("--connection", "a/b", "--import-function", "a/c")
    assert "'conn' is not a name with its namespace" in fails("--connection", "conn")
    assert "'a/b\\n' is not a name with its namespace" in fails("--import-function", "a/b\n")
    error = dbbackup.fails(1, "restore", "notes", "--port", "1", "--connection", "a/b")
    assert "no nREPL server answers at 127.0.0.1:1" in error
    error = dbbackup.fails(1, "restore", "notes", *into(script, "user/nothing-there"))
    assert "there is no user/nothing-there" in error


LEVIN_DATA = f"""
  [{{:db/id 7 :name {clojure(SIGNS)} :n 1 :tags [:x :y/z] :any {{:a [1 #{{2 nil}} 1/3]}} :d #inst "2020-01-01"
    :u #uuid "cf5b9d3c-7b4f-4ae0-8b3e-2d3a0f7f9a11" :b (byte-array [1 2 -3])}}
   {{:db/id 9 :name "b" :ref 7 :f (float 1.5) :c \\newline :z (char 955) :big 12345678901234567890N :dec 1.50M
    :gone 1}}]"""
LEVIN_SCHEMA = """
  {:name {:db/valueType :db.type/string :db/unique :db.unique/identity} :n {:db/valueType :db.type/long}
   :tags {:db/cardinality :db.cardinality/many :db/valueType :db.type/keyword} :ref {:db/valueType :db.type/ref}
   :pair {:db/tupleAttrs [:n :name]}}"""


def made(server: Server, name: str, directory: Path, schema: str = "{}") -> str:
    """A Datalevin database."""
    server.evaluate(f'(let [] (def {name} (datalevin.core/get-conn "{directory}/{name}" {schema})) 1)')
    return f"user/{name}"


def levin_count(server: Server, connection: str) -> str:
    return server.evaluate(f"(count (datalevin.core/datoms @{connection} :eav))")


def test_datalevin_comes_back_equal(dbbackup: Command, levin: Server, name: str, tmp_path: Path) -> None:
    made(levin, name, tmp_path, LEVIN_SCHEMA)
    levin.evaluate(f"(let [] (datalevin.core/transact! {name} {LEVIN_DATA}) 1)")
    levin.evaluate(f"(let [] (datalevin.core/transact! {name} [[:db/retract 9 :gone 1]]) 1)")
    backed_up(dbbackup, levin, name, "datalevin")
    copy = made(levin, f"{name}-copy", tmp_path)
    told = dbbackup.ok("restore", "notes", *into(levin, copy))
    assert (told["before"]["datoms"], told["after"]["datoms"]) == (0, 17)
    assert told["warnings"] == ["datalevin gives transactions new numbers; entities, attributes and values are kept"]
    plain = "(fn [v] (if (bytes? v) (vec v) v))"
    datoms = f"(fn [c] (set (map (juxt :e :a (comp {plain} :v) (comp class :v)) (datalevin.core/datoms @c :eav))))"
    assert levin.evaluate(f"(let [datoms {datoms}] (= (datoms {name}) (datoms {copy})))") == "true"
    schema = "(fn [c] (update-vals (datalevin.core/schema c) (fn [p] (dissoc p :db/aid))))"
    left_out = "(fn [s] (dissoc s :gone))"
    assert levin.evaluate(f"(let [s (comp {left_out} {schema})] (= (s {name}) (s {copy})))") == "true"
    assert levin.evaluate(f"(:name (datalevin.core/entity @{copy} 7))") == levin.evaluate(clojure(SIGNS))
    assert not dbbackup.ok("restore", "notes", *into(levin, copy))["changed"]
    assert levin.evaluate(f"(let [] (datalevin.core/transact! {copy} [{{:db/id -1 :n 2}}]) (:max-eid @{copy}))") == "10"
    error = dbbackup.fails(1, "restore", "notes", *into(levin, copy), "--force")
    assert error.endswith("it holds 19 datoms; load into a new one, and have the application use it")
    assert levin_count(levin, copy) == "19"


@pytest.mark.parametrize(
    "second",
    ["[1 :n 2 1]", "[2 :n #=(System/exit 7) 1]", "[-5 :n 1 1]", '["x" :n 1 1]'],
    ids=["one-value-only", "code", "negative", "no-entity"],
)
def test_datalevin_takes_all_or_nothing(
    dbbackup: Command, levin: Server, name: str, tmp_path: Path, second: str
) -> None:
    copy = made(levin, name, tmp_path)
    before = levin.evaluate(f"(str (datalevin.core/schema {copy}) (:max-tx @{copy}))")
    options = row(tmp_path, f"[1 :n 1 1]\n{second}", 2, "datalevin", 1)
    error = dbbackup.fails(1, "restore", "notes", *options, *into(levin, copy))
    assert error.endswith("; the database is as it was")
    assert levin_count(levin, copy) == "0"
    assert levin.evaluate(f"(str (datalevin.core/schema {copy}) (:max-tx @{copy}))") == before
    assert nothing_waits(levin)


def function(server: Server, name: str, body: str) -> list[str]:
    """A function that imports; what it was called with is in two vars then."""
    code = f"(let [] (defn {name} [path] (def {name}-path path) (def {name}-text (slurp path)) {body}) 1)"
    server.evaluate(code)
    return ["--port", str(server.address.port), "--import-function", f"user/{name}"]


@pytest.fixture
def text(dbbackup: Command, plain: Server) -> str:
    """The text of a backup of no known database."""
    made_of = f"(pr-str {{:a {clojure(SIGNS)} :b (vec (range 30000))}})"  # a text larger than a literal may be
    file = dbbackup.job("notes", "", type="nrepl", **plain.options, expression=made_of)
    file.write_text(file.read_text().replace('"path": "", ', ""))
    dbbackup.ok("run", "notes")
    return plain.evaluate(made_of)


def test_a_function_gets_the_file(dbbackup: Command, plain: Server, name: str, text: str) -> None:
    told = dbbackup.ok("restore", "notes", *function(plain, name, "nil"))
    assert (told["changed"], told["before"], told["after"], told["replaced"]) == (True, None, None, None)
    assert plain.evaluate(f"{name}-text") == text
    assert plain.evaluate(f"(.exists (.getParentFile (java.io.File. {name}-path)))") == "false"
    assert nothing_waits(plain)


@pytest.mark.usefixtures("text")
def test_a_function_that_fails_is_told(dbbackup: Command, plain: Server, name: str) -> None:
    options = function(plain, name, '(throw (ex-info "no\\nroom" {}))')
    error = dbbackup.fails(1, "restore", "notes", *options)
    assert "no room" in error
    assert error.endswith("; what the function has changed is not known")
    assert plain.evaluate(f"(.exists (.getParentFile (java.io.File. {name}-path)))") == "false"
    assert nothing_waits(plain)
    error = dbbackup.fails(1, "restore", "notes", *options[:-1], "user/missing")
    assert "there is no user/missing" in error
    assert "is no export of a known database" in dbbackup.fails(2, "restore", "notes", *into(plain, "user/conn"))


def test_the_module(dbbackup: Command, ansible: Ansible, script: Server, notes: str) -> None:
    copy = empty(script, notes)
    given = {"name": "notes", "repository": str(dbbackup.repository), "connection": copy, **script.options}
    module = "embedded.db_backup.backup_restore"
    told = ansible.module(module, "--check", "--diff", **given)
    assert (told["changed"], told["before"]["datoms"], told["after"]["datoms"]) == (True, 0, 11)
    assert (told["diff"]["before"]["datoms"], told["diff"]["after"]["datoms"]) == (0, 11)
    assert count(script, copy) == 0
    told = ansible.module(module, **given)
    assert (told["changed"], told["dest"]) == (True, f"nrepl://127.0.0.1:{script.address.port}/{copy}")
    assert script.evaluate(f"(= @{notes} @{copy})") == "true"
    assert not ansible.module(module, **given)["changed"]
    script.evaluate(f"(let [] (datascript.core/transact! {copy} [[:db/add 10 :n 1]]) 1)")
    assert "is not empty" in ansible.failure(module, **given)["msg"]
    assert ansible.module(module, force=True, **given)["replaced"] == "embedded.db-backup/replaced"
    assert "dest: is for restoring files" in ansible.failure(module, dest="/x", **given)["msg"]
    documented = json.loads(ansible.run("ansible-doc", "-j", module).stdout)[module]["return"]
    when = ("success", "success, of a restore to a live application")
    told = {key for key, about in documented.items() if about["returned"] in when}
    assert set(ansible.module(module, force=True, **given)) == told | {"changed"}
    del given["connection"]
    assert "port: is of a server to load into" in ansible.failure(module, **given)["msg"]


LARGE = 200_000


@pytest.mark.slow
def test_600_000_datoms_of_datascript(dbbackup: Command, script: Server, name: str) -> None:
    script.evaluate(
        f"""(let [] (def {name} (datascript.core/create-conn {DATASCRIPT_SCHEMA}))
      (reset! {name} (datascript.core/init-db
        (mapcat (fn [i] [(datascript.core/datom i :text (str "\\ud83d\\ude00 of the entity " i) 536870913)
                         (datascript.core/datom i :n (* i 1.5) 536870914)
                         (datascript.core/datom i :ref (inc (quot i 2)) 536870915)]) (range 1 {LARGE + 1}))
        {DATASCRIPT_SCHEMA})) 1)"""
    )
    backed_up(dbbackup, script, name, "datascript")
    copy = empty(script, name)
    assert peak_of_load(dbbackup, *into(script, copy)) < 100 << 10
    assert count(script, copy) == 3 * LARGE
    assert script.evaluate(f"(= @{name} @{copy})") == "true"


@pytest.mark.slow
def test_600_000_datoms_of_datalevin(dbbackup: Command, levin: Server, name: str, tmp_path: Path) -> None:
    made(levin, name, tmp_path, LEVIN_SCHEMA)
    levin.evaluate(
        f"""(let [] (doseq [part (partition-all 10000 (range 1 {LARGE + 1}))]
      (datalevin.core/transact! {name}
        (mapcat (fn [i] [[:db/add i :text (str "\\ud83d\\ude00 of the entity " i)] [:db/add i :f (* i 1.5)]
                         [:db/add i :ref (inc (quot i 2))]]) part))) 1)"""
    )
    backed_up(dbbackup, levin, name, "datalevin")
    copy = made(levin, f"{name}-copy", tmp_path)
    assert peak_of_load(dbbackup, *into(levin, copy)) < 100 << 10
    assert levin_count(levin, copy) == str(3 * LARGE)
    datoms = "(fn [c] (into #{} (map (juxt :e :a :v)) (datalevin.core/datoms @c :eav)))"
    assert levin.evaluate(f"(let [datoms {datoms}] (= (datoms {name}) (datoms {copy})))") == "true"


def peak_of_load(dbbackup: Command, *options: str) -> int:
    """The most memory that our side of a load has, in KiB."""
    arguments = dbbackup.arguments("restore", "notes", *options)
    watched = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
    watched += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [dbbackup.python, "-c", watched, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    return int(done.stdout.splitlines()[-1])
