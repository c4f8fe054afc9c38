# SPDX-License-Identifier: GPL-3.0-or-later
"""Datahike, of a class path that DATAHIKE_CLASSPATH tells: what is exported of it comes back equal, all or nothing."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import nrepl_servers
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import MissingError, Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import Job, literal, nothing_left, row
from ansible_collections.embedded.db_backup.tests.tools import Command
from ansible_collections.embedded.db_backup.tests.volumes import volume

pytestmark = pytest.mark.slow

ATTRIBUTES = """
  (into [{:db/ident :pair :db/valueType :db.type/tuple :db/tupleAttrs [:name :number]
          :db/cardinality :db.cardinality/one}
         {:db/ident :spot :db/valueType :db.type/tuple :db/tupleType :db.type/long :db/cardinality :db.cardinality/one}
         {:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
          :db/unique :db.unique/identity :db/doc "A \\"name\\" \\ud83d\\ude00"}
         {:db/ident :tag :db/valueType :db.type/keyword :db/cardinality :db.cardinality/many :db/index true}
         {:db/ident :friend :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
         {:db/ident :color/red}]
    (for [kind [:boolean :double :float :bigint :bigdec :instant :uuid :symbol :bytes]]
      {:db/ident (keyword "of" (name kind)) :db/valueType (keyword "db.type" (name kind))
       :db/cardinality :db.cardinality/one}))"""
GUARD = '[{:db/ident :guard :db.entity/attrs [:number :name]} {:number 9 :name "guarded" :db/ensure :guard}]'
NUMBER = "{:db/ident :number :db/valueType :db.type/long :db/cardinality :db.cardinality/one}"
# What has to be of the type that the schema tells.
TYPED = """
  [{:name "\\ud83d\\ude00 \\" \\\\ \\n \\u2028" :number -7 :tag [:a :b/c (keyword "no name")] :spot [1 2]
    :of/boolean false
    :of/double ##NaN :of/float (float 0.1) :of/bigint 12345678901234567890N :of/bigdec 1.50M
    :of/instant #inst "2026-11-21T01:30:00.123-00:00" :of/uuid #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc"
    :of/symbol 'a/b <bytes>}
   {:name "other" :number 1 :tag :gone
    :friend [[:name "\\ud83d\\ude00 \\" \\\\ \\n \\u2028"]]}
   {:name "gone" :number 5}]"""
BYTES = ":of/bytes (byte-array [0 1 -1])"
TYPED = TYPED.replace("<bytes>", BYTES)
TYPED_LATER = """
  [[:db/retract [:name "other"] :tag :gone] [:db/add [:name "other"] :number 2] [:db/retractEntity [:name "gone"]]]"""
# What only a database without a schema holds.
FREE = """
  [{:name "free" :ratio -22/7 :sign \\newline
    :nested {:a [1 #{{2 nil}} '(3 "\\ud83d\\ude00")]} :tagged (tagged-literal 'my/tag [1])
    :arrays [(byte-array [1]) (float-array [0.1]) (long-array [2])] :nan ##NaN :strange (keyword "x" "1]")
    :instant (java.time.Instant/ofEpochSecond 1700000000 123456789)}
   {:name "other" :tag :gone}]"""
FREE_LATER = """[[:db/retractEntity [:name "other"]] {:name "third" :tag :x}]"""
FREE_ATTRIBUTES = "[{:db/ident :name :db/unique :db.unique/identity :db/cardinality :db.cardinality/one}]"

CONFIGURATIONS = {
    "schema, history": ":schema-flexibility :write :keep-history? true",
    "schema": ":schema-flexibility :write :keep-history? false",
    "schema, history, references to attributes": ":schema-flexibility :write :keep-history? true :attribute-refs? true",
    "history": ":schema-flexibility :read :keep-history? true",
    "neither": ":schema-flexibility :read :keep-history? false",
}

# Arrays and what is no number are compared by what they hold.
SAME = """
  (defn same [value]
    (clojure.walk/postwalk
      (fn [one] (cond (and one (.isArray (class one))) [(class one) (vec one)]
                      (and (number? one) (not (== one one))) :not-a-number
                      :else one))
      value))"""
# Entity specifications have their attributes in any order.
SCHEMA = "(fn [database] (update-vals (d/schema database) (fn [one] (update one :db.entity/attrs set))))"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with nrepl_servers.datahike(tmp_path_factory.mktemp("datahike")) as server:
            server.evaluate("(do (require '[datahike.api :as d] 'clojure.walk) nil)")
            server.evaluate(f"(do {SAME} nil)")
            yield server
    except MissingError as missing:
        pytest.skip(str(missing))


@dataclass
class Hike:
    """Databases in a server, and the job of the first one."""

    server: Server
    dbbackup: Command
    folder: Path
    configuration: str
    store: str
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.made()
        database = {"database": "datahike", "connection": f"user/{self.name}"}
        self.job = Job(self.dbbackup, self.server, options=database)

    def made(self) -> str:
        """The name of a var with the connection to a new database."""
        name = f"conn{next(_numbers)}"
        store = f":backend :file :path {literal(self.folder / name)}" if self.store == "file" else ":backend :mem"
        configuration = f'{{:store {{{store} :id "{name}"}} {self.configuration}}}'
        self.evaluate(f"(def {name} (let [c {configuration}] (d/create-database c) (d/connect c)))")
        return name

    def evaluate(self, code: str) -> str:
        return self.server.evaluate(f"(do {code})")

    def transact(self, data: str, name: str = "") -> None:
        self.evaluate(f"(d/transact {name or self.name} {data}) nil")

    def filled(self) -> None:
        """Transact values of all kinds, some of which are retracted."""
        is_typed = ":write" in self.configuration
        is_referring = ":attribute-refs? true" in self.configuration
        for data in (
            (f"[{NUMBER}]", ATTRIBUTES, TYPED, TYPED_LATER) if is_typed else (FREE_ATTRIBUTES, FREE, FREE_LATER)
        ):
            # With references to attributes Datahike itself knows neither these bytes nor specifications of entities.
            self.transact(data.replace(" :bytes]", "]").replace(BYTES, "") if is_referring else data)
        if not is_referring:
            self.transact(GUARD)

    def restore(self, copy: str, *options: object) -> dict[str, Any]:
        return self.dbbackup.ok("restore", "export", *self.into(copy), *options, timeout=600)

    def fails(self, copy: str, *options: object) -> str:
        return self.dbbackup.fails(1, "restore", "export", *self.into(copy), *options, timeout=600)

    def into(self, copy: str) -> list[str]:
        return ["--port", str(self.server.address.port), "--connection", f"user/{copy}"]

    def datoms(self, name: str) -> str:
        """A form for all that is in a database."""
        return f"(mapv (fn [d] [(:e d) (:a d) (same (:v d)) (class (:v d)) (:tx d)]) (d/datoms @{name} :eavt))"

    def number(self, code: str) -> int:
        return int(self.evaluate(code))


@pytest.fixture(params=["mem"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(CONFIGURATIONS))
def hike(request: pytest.FixtureRequest, server: Server, store: str, dbbackup: Command, tmp_path: Path) -> Hike:
    return Hike(server, dbbackup, tmp_path, CONFIGURATIONS[request.param], store)


only_first = pytest.mark.parametrize("hike", ["schema, history"], indirect=True)


def test_it_comes_back_equal(hike: Hike) -> None:
    hike.filled()
    with nothing_left(hike.server):
        source = hike.job.run()["source"]
    copy = hike.made()
    numbers = {"datoms": source["records"], "basis": hike.number(f"(:max-tx @{hike.name})")}
    told = hike.restore(copy)
    assert (told["changed"], told["before"]["datoms"], told["after"], told["warnings"]) == (True, 0, numbers, [])
    assert hike.evaluate(f"(= {hike.datoms(hike.name)} {hike.datoms(copy)})") == "true"
    assert hike.evaluate(f"(= ({SCHEMA} @{hike.name}) ({SCHEMA} @{copy}))") == "true"
    # All indices have it.
    for index in (":aevt", ":avet"):
        found = f"(fn [c] (frequencies (map (juxt :e :a :tx) (d/datoms @c {index}))))"
        assert hike.evaluate(f"(= ({found} {hike.name}) ({found} {copy}))") == "true"
    assert not hike.restore(copy)["changed"]
    # Exported, it is the same text, as far as the order of entity specifications goes.
    job = Job(hike.dbbackup, hike.server, "again", {**hike.job.options, "connection": f"user/{copy}"})
    assert job.run()["source"]["records"] == source["records"]
    texts = [one.restored(hike.folder / one.name).read_text().split(":datoms [", 1)[1] for one in (hike.job, job)]
    assert texts[0] == texts[1]
    # It goes on from there, and what is there is not replaced.
    hike.transact('[{:name "new" :tag :a}]', copy)
    assert hike.number(f"(:max-tx @{copy})") == numbers["basis"] + 1
    assert hike.evaluate(f'(count (d/q (quote [:find ?e :where [?e :name "new"] [?e :tag :a]]) @{copy}))') == "1"
    held = hike.number(f"(count {hike.datoms(copy)})")
    error = hike.fails(copy, "--force")
    assert "is not empty, it holds" in error
    assert error.endswith("load into a new one, and have the application use it")
    assert hike.number(f"(count {hike.datoms(copy)})") == held


@pytest.mark.parametrize("hike", ["schema, history", "schema, history, references to attributes"], indirect=True)
def test_every_content_comes_by_every_way(hike: Hike) -> None:
    hike.transact(f"[{NUMBER} {{:db/ident :tag :db/valueType :db.type/keyword :db/cardinality :db.cardinality/many}}]")
    hike.transact("[{:number 1 :tag [:a :b]} {:number 2 :tag [:c]}]")
    held = hike.number(f"(count (remove (fn [d] (= 536870912 (:tx d))) (d/datoms @{hike.name} :eavt)))")
    for way in ("pull", "file", "value"):
        with nothing_left(hike.server):
            source = hike.job.run(way=way, directory=str(hike.folder))["source"]
        assert (source["way"], source["records"]) == (way, held)
        assert source["position"]["start"] == source["position"]["stop"] == hike.number(f"(:max-tx @{hike.name})")
    assert hike.job.run(content="datoms")["source"]["records"] == held
    assert ":tag :b 536870914]" in hike.job.restored(hike.folder / "datoms.edn").read_text()
    entities = hike.job.run(content="entities")["source"]["records"]
    assert entities == hike.number(
        f"(count (set (map first (filter #(< 536870912 (peek %)) {hike.datoms(hike.name)}))))"
    )
    text = hike.job.restored(hike.folder / "entities.edn").read_text()
    assert re.search(r":number 1, :tag \[:a :b\]\}", text), text
    assert re.search(r":number 2, :tag \[:c\]\}", text), text
    assert "is for database datascript only" in hike.job.fails(2, content="tx_log")


@only_first
def test_exports_of_a_busy_bank_are_each_of_one_moment(hike: Hike) -> None:
    hike.transact(f"[{NUMBER} {{:db/ident :turn :db/valueType :db.type/long :db/cardinality :db.cardinality/one}}]")
    hike.transact("(mapv (fn [n] {:db/id (+ 100 n) :number 1000 :turn 0}) (range 50))")
    hike.evaluate(
        f"""(def busy (atom true))
      (def bank (future (loop [turn 1]
        (when @busy
          (let [database @{hike.name} [one other] (take 2 (shuffle (range 100 150)))
                of (fn [n] (:number (d/entity database n)))]
            (d/transact {hike.name} (into [{{:db/id one :number (dec (of one))}}
                                           {{:db/id other :number (inc (of other))}}]
                                          (map (fn [n] {{:db/id n :turn turn}})) (range 100 150))))
          (recur (inc turn)))))) nil"""
    )
    turns = set()
    try:
        for content in ("snapshot", "entities", "snapshot", "datoms", "snapshot"):
            hike.job.run(content=content)
            text = hike.job.restored(hike.folder / "restored.edn").read_text()
            # Behind :db/ident there are the attributes themselves.
            numbers = list(map(int, re.findall(r"(?<!ident ):number (-?\d+)", text)))
            assert (len(numbers), sum(numbers)) == (50, 50_000)
            (turn,) = set(re.findall(r"(?<!ident ):turn (\d+)", text))
            turns.add(turn)
    finally:
        hike.evaluate("(reset! busy false) @bank nil")
    assert len(turns) > 1, "nothing was written meanwhile"
    copy = hike.made()
    hike.job.run()
    hike.restore(copy)
    assert hike.evaluate(f"(= {hike.datoms(hike.name)} {hike.datoms(copy)})") == "true"


@pytest.mark.parametrize("hike", ["neither"], indirect=True)
@pytest.mark.parametrize(
    "second",
    [
        "[1 :n 2 536870913]",
        "[2 :n #=(System/exit 7) 536870913]",
        "[-5 :n 1 536870913]",
        '["x" :n 1 536870913]',
        "[2 :n 1 536870999]",
        "[2 nil 1 536870913]",
        "[2 :db/ident :n 536870913]\n[3 :db/ident :n 536870913]",
    ],
    ids=["one value only", "code", "negative", "no entity", "of the future", "no attribute", "an attribute twice"],
)
def test_it_takes_all_or_nothing(hike: Hike, second: str) -> None:
    before = hike.evaluate(f"(str (:schema @{hike.name}) (:max-tx @{hike.name}))")
    options = row(hike.folder, f"[1 :n 1 536870913]\n{second}", 2 + second.count("\n"), "datahike")
    error = hike.dbbackup.fails(1, "restore", "notes", *options, *hike.into(hike.name))
    assert error.endswith("; the database is as it was")
    assert hike.evaluate(f"(str (:schema @{hike.name}) (:max-tx @{hike.name}))") == before
    # The application has not noticed anything.
    hike.transact("[{:n 1}]")
    assert hike.evaluate(hike.datoms(hike.name)) == "[[1 :n 1 java.lang.Long 536870913]]"


@only_first
@pytest.mark.parametrize("place", ["with", "transact"])
def test_a_database_that_changes_meanwhile_is_left_alone(hike: Hike, place: str) -> None:
    """Another thread of the application commits between two steps of the load."""
    hike.filled()
    hike.job.run()
    copy = hike.made()
    hike.evaluate(
        f"""(def original datahike.api/{place}) (def other-transact datahike.api/transact) (def armed (atom true))
      (alter-var-root #'datahike.api/{place} (fn [_] (fn [& arguments]
        (if (= "with" "{place}")
          (let [given (apply original arguments)]
            (when (compare-and-set! armed true false) (other-transact {copy} [{NUMBER}]))
            given)
          (do (when (compare-and-set! armed true false) (other-transact {copy} [{NUMBER}]))
              (apply original arguments)))))) nil"""
    )
    try:
        error = hike.fails(copy)
    finally:
        hike.evaluate(f"(alter-var-root #'datahike.api/{place} (constantly original)) nil")
    assert "the database was changed in the meantime; the database is as it was" in error
    assert hike.evaluate(f"(vec (keys (d/schema @{copy})))") == "[:number]"
    last = hike.number(f"(:max-tx @{copy})")
    hike.transact("[{:number 1}]", copy)
    assert hike.evaluate(f"[(:max-tx @{copy}) (count {hike.datoms(copy)})]") == f"[{last + 1} 6]"


def test_what_cannot_be_loaded_is_told(server: Server, dbbackup: Command, tmp_path: Path) -> None:
    hike = Hike(server, dbbackup, tmp_path, CONFIGURATIONS["neither"], "mem")
    hike.filled()
    hike.job.run()
    copy = Hike(server, dbbackup, tmp_path, CONFIGURATIONS["history"], "mem").name
    error = hike.fails(copy)
    assert error.endswith("the database keeps history, and that of the backup did not; the database is as it was")
    copy = Hike(server, dbbackup, tmp_path, CONFIGURATIONS["schema"], "mem").name
    error = hike.fails(copy)
    assert "does not match schema" in error or "not defined in current schema" in error
    assert error.endswith("the database is as it was")
    assert hike.evaluate(hike.datoms(copy)) == "[]"


@pytest.mark.parametrize("hike", ["schema, history"], indirect=True)
@pytest.mark.parametrize("store", ["mem", "file"], indirect=True)
def test_100_000_datoms(hike: Hike) -> None:
    hike.filled()
    for part in range(5):
        hike.transact(
            f"""(mapcat (fn [i] [[:db/add (+ 1000 i) :name (str "entity " i " \\ud83d\\ude00")]
                                [:db/add (+ 1000 i) :number i] [:db/add (+ 1000 i) :tag :x]
                                [:db/add (+ 1000 i) :of/double (* 1.5 i)]])
                    (range {part * 5000} {part * 5000 + 5000}))"""
        )
    source = hike.job.run()["source"]
    assert source["records"] > 100_000
    copy = hike.made()
    assert hike.restore(copy)["after"]["datoms"] == source["records"]
    assert hike.evaluate(f"(= {hike.datoms(hike.name)} {hike.datoms(copy)})") == "true"
    if hike.store == "file":
        # What another process would find.
        hike.evaluate(f"(def config (:config @{copy})) (d/release {copy}) (def {copy} (d/connect config)) nil")
        assert hike.evaluate(f"(= {hike.datoms(hike.name)} {hike.datoms(copy)})") == "true"
        assert not hike.restore(copy)["changed"]


@only_first
@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_on_a_full_disk_nothing_or_all_is_there(hike: Hike) -> None:
    hike.filled()
    hike.job.run()
    with volume("ext4", hike.folder, megabytes=8) as place:
        small = Hike(hike.server, hike.dbbackup, place, hike.configuration, "file").name
        with open(place / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(1024)):
                pass
        error = hike.fails(small)
        assert "it could not be stored: " in error
        assert "No space left on device" in error
        assert error.endswith("; the database is as it was, or holds the whole backup")
        (place / "filler").unlink()
        config = f"(:config @(:wrapped-atom {small}))"
        hike.evaluate(f"(def config {config}) (d/release {small} true) (def {small} (d/connect config)) nil")
        assert hike.number(f"(count {hike.datoms(small)})") == 0
        hike.restore(small)
        assert hike.evaluate(f"(= {hike.datoms(hike.name)} {hike.datoms(small)})") == "true"
        hike.evaluate(f"(d/release {small} true) nil")
