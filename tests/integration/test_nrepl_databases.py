# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports of real databases: loaded again into the same engine they are equal, whatever they hold and who writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl import literals
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import Job, literal, nothing_left, without_bindings
from ansible_collections.embedded.db_backup.tests.tools import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MANY = 150_000
ACCOUNTS, BALANCE = 200, 1000

# Arrays and what is no number are compared by what they hold.
SAME = """
(do
  (defn same [value]
    (cond
      <array> [:array (vec value)]
      (and (number? value) (not (== value value))) :not-a-number
      (map? value) (into {} (map (fn [[one other]] [(same one) (same other)])) value)
      (set? value) (into #{} (map same) value)
      (sequential? value) (mapv same value)
      :else value))
  (defn all-of [database]
    (into #{} (map (fn [datom] [(:e datom) (:a datom) (same (:v datom))])) (<datoms> database <index>)))
  nil)
"""

STRANGE_TEXTS = r"""
  [(apply str (repeat 5000 "😀"))
   "quotes \" and \\ backslashes \\\" and \\\\"
   "lines\nand\r\nreturns\tand tabs\f\b"
   "; no comment ] ) } #_ #object[ ... \\u0041"
   "" " " "ünïcödé 日本語 עברית \u202e \ufeff \uffff"]
"""


class Engine:
    """An engine with a database in user/conn."""

    preset: str
    readers: str
    read_file: str

    def __init__(self, server: Server, dbbackup: Command, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.job = Job(dbbackup, server, options={"database": self.preset, "connection": "user/conn"})

    def evaluate(self, code: str) -> str:
        return self.server.evaluate(code)

    def read(self, path: Path) -> None:
        """Have the server read an export into user/export."""
        text = self.read_file.replace("<path>", literal(path))
        options = f"{{:readers {self.readers} :default tagged-literal}}"
        self.evaluate(f"(do (def export (clojure.edn/read-string {options} {text})) nil)")

    def load(self, path: Path) -> None:
        """Make a database of an export, in user/loaded."""
        raise NotImplementedError

    def assert_equal(self) -> None:
        assert self.evaluate("(= (all-of @conn) (all-of @loaded))") == "true"
        assert self.evaluate("(count (all-of @loaded))") == self.evaluate("(:count export)")


class DataScript(Engine):
    """On Node.js."""

    preset = "datascript"
    readers = literals.NBB_READERS
    read_file = '(.readFileSync (js/process.getBuiltinModule "fs") <path> "utf8")'
    attributes = (
        "{:name {:db/unique :db.unique/identity} :many {:db/cardinality :db.cardinality/many} "
        ":friend {:db/valueType :db.type/ref}}"
    )

    def __init__(self, server: Server, dbbackup: Command, folder: Path) -> None:
        super().__init__(server, dbbackup, folder)
        server.evaluate("(require '[datascript.core :as d] '[clojure.edn])")
        same = SAME.replace("<array>", "(instance? js/Uint8Array value)")
        server.evaluate(same.replace("<datoms>", "d/datoms").replace("<index>", ":eavt"))
        server.evaluate(f"(do (def conn (d/create-conn {self.attributes})) nil)")

    def load(self, path: Path) -> None:
        self.read(path)
        self.evaluate(
            "(do (def loaded (d/conn-from-datoms (mapv (fn [[e a v tx]] (d/datom e a v tx)) (:datoms export))"
            " (:schema export))) nil)"
        )

    def assert_equal(self) -> None:
        super().assert_equal()
        assert self.evaluate("(= (:schema @conn) (:schema @loaded))") == "true"
        assert self.evaluate("(= (:max-tx @conn) (:max-tx export))") == "true"


class Datalevin(Engine):
    """On a JVM, in a directory."""

    preset = "datalevin"
    readers = literals.JVM_READERS
    read_file = "(slurp <path>)"
    attributes = (
        "{:name {:db/valueType :db.type/string :db/unique :db.unique/identity} "
        ":many {:db/cardinality :db.cardinality/many} :friend {:db/valueType :db.type/ref} "
        + " ".join(
            f":typed/{kind} {{:db/valueType :db.type/{kind}}}"
            for kind in (
                "string",
                "long",
                "double",
                "float",
                "boolean",
                "instant",
                "uuid",
                "keyword",
                "symbol",
                "bytes",
            )
        )
        + " :typed/bigint {:db/valueType :db.type/bigint} :typed/bigdec {:db/valueType :db.type/bigdec}}"
    )

    def __init__(self, server: Server, dbbackup: Command, folder: Path) -> None:
        super().__init__(server, dbbackup, folder)
        server.evaluate("(do (require '[datalevin.core :as d] '[clojure.edn]) nil)")
        same = SAME.replace("<array>", "(and value (.isArray (class value)))")
        server.evaluate(same.replace("<datoms>", "d/datoms").replace("<index>", ":eav"))
        server.evaluate(f"(do (def conn (d/create-conn {literal(folder / 'dtlv')} {self.attributes})) nil)")

    def load(self, path: Path) -> None:
        self.read(path)
        place = literal(path.with_name(path.name + "-loaded"))
        self.evaluate(
            "(do (def loaded (d/conn-from-datoms (mapv (fn [[e a v]] (d/datom e a v)) (:datoms export))"
            f" {place} (:schema export))) nil)"
        )

    def assert_equal(self) -> None:
        super().assert_equal()
        own = "(fn [schema] (into {} (map (fn [[name told]] [name (dissoc told :db/aid)])) schema))"
        assert self.evaluate(f"(= ({own} (d/schema conn)) ({own} (d/schema loaded)))") == "true"

    def close(self) -> None:
        self.evaluate("(do (d/close conn) (when-let [made (resolve 'user/loaded)] (d/close @made)) nil)")


@pytest.fixture
def on_node(datascript: Server, dbbackup: Command, tmp_path: Path) -> DataScript:
    """An empty DataScript."""
    return DataScript(datascript, dbbackup, tmp_path)


@pytest.fixture
def on_jvm(datalevin: Server, dbbackup: Command, tmp_path: Path) -> Iterator[Datalevin]:
    """An empty Datalevin."""
    datalevin.evaluate("(ns-unmap 'user 'loaded)")
    engine = Datalevin(datalevin, dbbackup, tmp_path)
    yield engine
    engine.close()


@pytest.fixture(params=["datascript", "datalevin"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of them."""
    found: Engine = request.getfixturevalue({"datascript": "on_node", "datalevin": "on_jvm"}[request.param])
    return found


def restored(engine: Engine) -> Path:
    return engine.job.restored(engine.folder / "restored.edn")


class TestValues:
    def test_datascript_comes_back_equal(self, on_node: DataScript) -> None:
        on_node.evaluate(
            rf"""
            (do
              (d/transact! conn
                [{{:name "everything" :many [1 -1.5 1e300 js/Infinity (- js/Infinity)]
                  :nan js/NaN :bytes (js/Uint8Array.from (js/Buffer.from "AAECA/+A" "base64")) :empty (js/Uint8Array. 0)
                  :texts {STRANGE_TEXTS}
                  :planes (apply str (map (fn [point] (js/String.fromCodePoint point))
                                          (remove (fn [point] (<= 0xd800 point 0xdfff)) (range 0 0x110000 331))))
                  :half (str "a" (js/String.fromCharCode 0xd83d) "b" (js/String.fromCharCode 0))
                  :date #inst "2026-11-21T01:30:00.123-00:00" :uuid #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc"
                  :tagged (tagged-literal 'my/tag {{:a [1 2]}})
                  :keyword :a/b
                  :strange [(keyword "a b") (keyword "x" "1]") (keyword "") (symbol "nil") (symbol "a" "b c")]
                  :nested {{[1 #{{2 {{:x '(y z)}}}}] {{nil true false :a}} "k" [[] {{}} #{{}} ()]}}}}
                 {{:name "friend" :friend 1}}])
              nil)"""
        )
        with nothing_left(on_node.server, on_jvm=False):
            source = on_node.job.run()["source"]
        on_node.load(restored(on_node))
        on_node.assert_equal()
        assert source["position"]["start"] == source["position"]["stop"] == int(on_node.evaluate("(:max-tx @conn)"))
        assert source["records"] == int(on_node.evaluate("(count (d/datoms @conn :eavt))"))

    def test_datalevin_comes_back_equal(self, on_jvm: Datalevin) -> None:
        on_jvm.evaluate(
            rf"""
            (do
              (d/transact! conn
                [{{:name "everything" :many [1 -1.5 1/3 2.50M 12345678901234567890123N \a \newline \u2603 (char 0)]
                  :typed/string (str "😀 \" \\ " (char 0) (char 0xd83d)) :typed/long Long/MIN_VALUE
                  :typed/double 1e-300 :typed/float (float 0.1) :typed/boolean false
                  :typed/instant #inst "2026-11-21T01:30:00.123-00:00"
                  :typed/uuid #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc" :typed/keyword :a/b :typed/symbol 'c/d
                  :typed/bytes (byte-array (range -128 128)) :typed/bigint 12345678901234567890123N
                  :typed/bigdec 0.10M
                  :nan ##NaN :infinities [##Inf ##-Inf] :float (float 0.1) :ratio -22/7
                  :texts {STRANGE_TEXTS}
                  :planes (apply str (map (fn [point] (String. (Character/toChars point)))
                                          (remove (fn [point] (<= 0xd800 point 0xdfff)) (range 0 0x110000 331))))
                  :instant (java.time.Instant/ofEpochSecond 1700000000 123456789)
                  :arrays [(byte-array [1 2]) (float-array [0.1 2]) (double-array [0.1])
                           (int-array [1]) (long-array [2])]
                  :strange [(keyword "a b") (keyword "x" "1]") (symbol "nil") (symbol "a" "b c")]
                  :nested {{[1 #{{2 {{:x '(y z)}}}}] {{nil true false :a}} "k" [[] {{}} #{{}} ()]}}}}
                 {{:name "friend" :friend 1}}])
              nil)"""
        )
        with nothing_left(on_jvm.server):
            source = on_jvm.job.run()["source"]
        on_jvm.load(restored(on_jvm))
        on_jvm.assert_equal()
        kind = "(= (class (:float (d/entity @conn 1))) (class (:float (d/entity @loaded 1))) Float)"
        assert on_jvm.evaluate(kind) == "true"
        assert source["records"] == int(on_jvm.evaluate("(count (d/datoms @conn :eav))"))

    def test_what_edn_cannot_carry_is_named(self, on_jvm: Datalevin, on_node: DataScript) -> None:
        on_jvm.evaluate('(do (d/transact! conn [{:name "x" :date (java.time.LocalDate/now)}]) nil)')
        on_node.evaluate('(do (d/transact! conn [{:name "x" :date (js/Map.)}]) nil)')
        for engine, words in ((on_jvm, "java.time.LocalDate"), (on_node, "EDN has no form for it")):
            with nothing_left(engine.server, on_jvm=engine is on_jvm):
                sentence = engine.job.fails()
            assert "the value of :date of entity 1 cannot be exported" in sentence
            assert words in sentence

    def test_contents(self, engine: Engine) -> None:
        engine.evaluate(
            '(do (d/transact! conn [{:db/id 1 :name "a" :many ["x" "y"] :friend 2} {:db/id 2 :name "b"}]) nil)'
        )
        source = engine.job.run(content="datoms")["source"]
        assert (source["content"], source["records"]) == ("datoms", 5)
        text = restored(engine).read_text()
        assert ":schema" not in text
        assert '[1 :many "y"' in text
        source = engine.job.run(content="entities")["source"]
        assert (source["content"], source["records"]) == ("entities", 2)
        engine.read(restored(engine))
        entities = '[{:db/id 1 :name "a" :many ["x" "y"] :friend 2} {:db/id 2 :name "b"}]'
        assert engine.evaluate(f"(= {entities} (:entities export))") == "true"

    def test_an_empty_database(self, engine: Engine) -> None:
        assert "0 records, fewer than min_records, 1" in engine.job.fails()
        assert engine.job.run(min_records=0)["source"]["records"] == 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"connection": "user/none"}, "there is no user/none"),
            ({"connection": "no.such.place/conn"}, "there is no no.such.place/conn"),
            ({"connection": "clojure.core/map"}, ""),
            ({"database": "datahike"}, ""),
        ],
        ids=str,
    )
    def test_what_is_no_database(self, engine: Engine, options: dict[str, str], words: str) -> None:
        engine.evaluate('(do (d/transact! conn [{:name "a"}]) nil)')
        engine.job.run()
        with nothing_left(engine.server, on_jvm=isinstance(engine, Datalevin)):
            assert words in engine.job.fails(**options)

    @pytest.mark.parametrize("way", ["pull", "file", "value"])
    def test_all_ways_bring_the_same(self, engine: Engine, way: str) -> None:
        engine.evaluate(f'(do (d/transact! conn [{{:name "a" :texts {STRANGE_TEXTS}}}]) nil)')
        if isinstance(engine, DataScript) and way == "pull":
            assert "way pull" in engine.job.fails(2, way=way)
            return
        assert engine.job.run(way=way, directory=str(engine.folder))["source"]["way"] == way
        engine.load(restored(engine))
        engine.assert_equal()

    def test_what_a_server_has_set_for_its_printer_does_not_matter(self, engine: Engine) -> None:
        engine.evaluate(f'(do (d/transact! conn [{{:name "a" :texts {STRANGE_TEXTS}}}]) nil)')
        if isinstance(engine, Datalevin):
            with without_bindings(engine.server) as port:
                engine.evaluate("(do (alter-var-root #'*print-length* (constantly 1)) nil)")
                try:
                    engine.job.run(port=port)
                finally:
                    engine.evaluate("(do (alter-var-root #'*print-length* (constantly nil)) nil)")
        else:
            engine.job.run()
        engine.load(restored(engine))
        engine.assert_equal()


def test_unchanged_is_known_by_the_last_transaction(engine: Engine) -> None:
    def is_skipped(**options: Any) -> bool:
        engine.job.described(skip_unchanged=True, **options)
        skipped: bool = engine.job.dbbackup.ok("run", engine.job.name)["skipped"]
        return skipped

    engine.evaluate('(do (d/transact! conn [{:name "a" :n 1}]) nil)')
    assert not is_skipped()
    assert is_skipped()
    assert not is_skipped(content="entities")
    assert not is_skipped()
    engine.evaluate('(do (d/transact! conn [{:name "a" :n 2}]) nil)')
    assert not is_skipped()
    # A database that was made anew and has had as many transactions is another one.
    before = engine.evaluate("(:max-tx @conn)")
    if isinstance(engine, DataScript):
        engine.evaluate(f"(do (def conn (d/create-conn {engine.attributes})) nil)")
        engine.evaluate('(do (d/transact! conn [{:name "a" :n 1}]) (d/transact! conn [{:name "a" :n 3}]) nil)')
        assert engine.evaluate("(:max-tx @conn)") == before
        assert not is_skipped()


# Accounts whose balances always have the same sum, and a number that is the same in all of them.
BANK = f"""
(do
  (d/transact! conn (mapv (fn [n] {{:name (str "account " n) :balance {BALANCE} :turn 0}}) (range {ACCOUNTS})))
  (def turn (atom 0))
  (defn transfer! []
    (let [turn (swap! turn inc) one (rand-int {ACCOUNTS}) other (mod (+ one 1 (rand-int {ACCOUNTS - 1})) {ACCOUNTS})
          database @conn
          of (fn [n] (:balance (d/entity database [:name (str "account " n)])))]
      (d/transact! conn
        (into [{{:name (str "account " one) :balance (dec (of one))}}
               {{:name (str "account " other) :balance (inc (of other))}}]
              (map (fn [n] {{:name (str "account " n) :turn turn}}))
              (range {ACCOUNTS})))))
  nil)
"""


@contextmanager
def writing(engine: Engine) -> Iterator[None]:
    """An application that moves money all the time."""
    engine.evaluate(BANK)
    if isinstance(engine, Datalevin):
        engine.evaluate("(do (def stop (atom false)) (def writer (future (while (not @stop) (transfer!)))) nil)")
        stop = "(do (reset! stop true) @writer nil)"
    else:
        engine.evaluate("(do (def writer (js/setInterval transfer! 1)) nil)")
        stop = "(do (js/clearInterval writer) nil)"
    try:
        yield
    finally:
        engine.evaluate(stop)


@pytest.mark.parametrize("content", ["snapshot", "entities"])
def test_exports_of_a_busy_bank_are_each_of_one_moment(engine: Engine, content: str) -> None:
    turns = set()
    with writing(engine):
        for _number in range(8):
            source = engine.job.run(content=content)["source"]
            text = restored(engine).read_text()
            balances = [int(found) for found in re.findall(r":balance (-?\d+)", text)]
            assert (len(balances), sum(balances)) == (ACCOUNTS, ACCOUNTS * BALANCE)
            (turn,) = set(re.findall(r":turn (\d+)", text))
            turns.add(turn)
            assert source["position"]["start"] <= source["position"]["stop"]
    assert len(turns) > 1, "nothing was written meanwhile"


# Four datoms for each entity.
FILL = f"""
(mapcat (fn [n] [<datom> (inc n) :name (str "entity " n " 😀 \\"" (mod n 7))) <datom> (inc n) :n n)
                 <datom> (inc n) :text (str "some longer text of entity " n " and \\n more of it"))
                 <datom> (inc n) :friend (inc (mod (* 7 n) {MANY})))])
        (range {MANY}))
"""


def test_600_000_datoms(engine: Engine) -> None:
    datoms = FILL.replace("<datom>", "(d/datom")
    if isinstance(engine, DataScript):
        engine.evaluate(f"(do (def conn (d/conn-from-datoms (vec {datoms}) {engine.attributes})) nil)")
    else:
        engine.evaluate(f"(do (d/fill-db @conn {datoms}) nil)")
        engine.evaluate('(do (d/transact! conn [{:name "one more"}]) nil)')
    source = engine.job.run()["source"]
    assert source["records"] >= 4 * MANY
    path = restored(engine)
    assert path.read_bytes().count(b"\n") == source["records"] + 2
    engine.load(path)
    engine.assert_equal()
