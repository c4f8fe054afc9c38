# SPDX-License-Identifier: GPL-3.0-or-later
"""DataScript in a JVM, of a class path that DATASCRIPT_CLASSPATH tells: exports and logs of transactions, and back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures import nrepl_servers
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import MissingError, Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import Job, nothing_left
from ansible_collections.embedded.db_backup.tests.tools import Command

pytestmark = pytest.mark.slow

SCHEMA = """{:name {:db/unique :db.unique/identity} :tag {:db/cardinality :db.cardinality/many}
             :friend {:db/valueType :db.type/ref}}"""
VALUES = """
  [{:db/id 3 :name "\\ud83d\\ude00 \\" \\\\ \\n \\u2028 \\u0000" :tag [:a :b/c (keyword "no name")]
    :ratio -22/7 :sign \\newline
    :big 12345678901234567890N :exact 1.50M :float (float 0.1) :symbol 'a/b :no false :infinite ##-Inf
    :date #inst "2026-11-21T01:30:00.123-00:00" :id #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc"
    :nested {:a [1 #{{2 nil}} '(3 "\\ud83d\\ude00")]} :tagged (tagged-literal 'my/tag [1])
    :instant (java.time.Instant/ofEpochSecond 1700000000 123456789)}
   {:db/id 9 :name "other" :friend 3 :gone 1}]"""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with nrepl_servers.datascript(tmp_path_factory.mktemp("datascript")) as server:
            server.evaluate("(do (require '[datascript.core :as d]) nil)")
            yield server
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def job(server: Server, dbbackup: Command) -> Job:
    """That of a new database, whose connection is in a var of its name."""
    name = made(server)
    return Job(dbbackup, server, options={"database": "datascript", "connection": f"user/{name}"})


def made(server: Server) -> str:
    name = f"conn{next(_numbers)}"
    server.evaluate(f"(def {name} (d/create-conn {SCHEMA}))")
    return name


def into(job: Job, name: str) -> list[str]:
    return ["restore", job.name, "--port", str(job.server.address.port), "--connection", f"user/{name}"]


def test_it_comes_back_equal_by_every_way(job: Job, tmp_path: Path) -> None:
    server, name = job.server, job.options["connection"]
    server.evaluate(f"(do (d/transact! {name} {VALUES}) (d/transact! {name} [[:db/retract 9 :gone 1]]) nil)")
    for way in ("pull", "file", "value"):
        with nothing_left(server):
            source = job.run(way=way, directory=str(tmp_path))["source"]
        assert (source["way"], source["position"]["stop"]) == (way, int(server.evaluate(f"(:max-tx @{name})")))
        copy = made(server)
        told = job.dbbackup.ok(*into(job, copy))
        assert (told["before"]["datoms"], told["after"]["datoms"]) == (0, source["records"])
        same = f"(let [a @{name} b @{copy}] [(= a b) (:max-tx b) (:max-eid b) (= (:schema a) (:schema b))])"
        assert server.evaluate(same) == f"[true {source['position']['stop']} 9 true]"
    assert not job.dbbackup.ok(*into(job, copy))["changed"]
    server.evaluate(f"(do (d/transact! {copy} [[:db/add 10 :n 1]]) (def old @{copy}) nil)")
    assert "with force it is replaced" in job.dbbackup.fails(1, *into(job, copy))
    replaced = job.dbbackup.ok(*into(job, copy), "--force")["replaced"]
    assert server.evaluate(f"[(= @{copy} @{name}) (identical? old @(resolve '{replaced}))]") == "[true true]"
    assert job.run(content="datoms")["source"]["records"] == source["records"]
    assert job.run(content="entities")["source"]["records"] == 2


def test_what_is_not_equal_to_itself_comes_back(job: Job) -> None:
    name = job.options["connection"]
    job.server.evaluate(f"(do (d/transact! {name} [[:db/add 1 :nan ##NaN] [:db/add 1 :b (byte-array [0 -1])]]) nil)")
    job.run()
    copy = made(job.server)
    job.dbbackup.ok(*into(job, copy))
    assert job.server.evaluate(f"(let [e (d/entity @{copy} 1)] [(NaN? (:nan e)) (vec (:b e))])") == "[true [0 -1]]"


def test_transactions_of_many_threads_come_back_to_every_state(job: Job) -> None:
    server, name = job.server, job.options["connection"]
    server.evaluate(
        f"""(do (def states (atom {{}}))
      (d/listen! {name} :states (fn [{{:keys [db-after]}}] (swap! states assoc (:max-tx db-after) db-after))) nil)"""
    )
    log = {"content": "tx_log", "install_listener": True}
    server.evaluate(f'(do (d/transact! {name} [{{:name "first" :n 0}}]) nil)')
    assert job.run(**log)["backup"]["type"] == "full"
    positions = []
    for part in range(3):
        server.evaluate(
            f"""(do (run! deref (doall (for [thread (range 4)]
          (future (dotimes [n 10] (d/transact! {name} [{{:name (str {part} "-" thread "-" n) :tag [:a n]}}
                                                       [:db/add [:name "first"] :n (+ n thread)]])))))) nil)"""
        )
        backup = job.run(**log)
        assert backup["backup"]["type"] == "incr"
        assert backup["source"]["records"] == 40
        positions.append(backup["source"]["position"]["stop"])
    for position in [*positions, positions[0] + 7, positions[-1] - 1]:
        copy = made(server)
        job.dbbackup.ok(*into(job, copy), "--position", str(position))
        assert server.evaluate(f"(= @{copy} (get @states {position}))") == "true"


def test_exports_of_a_busy_bank_are_each_of_one_moment(job: Job, tmp_path: Path) -> None:
    server, name = job.server, job.options["connection"]
    server.evaluate(
        f"""(do (d/transact! {name} (mapv (fn [n] {{:db/id (inc n) :balance 1000 :turn 0}}) (range 200)))
      (def busy (atom true))
      (def bank (future (loop [turn 1]
        (when @busy
          (let [database @{name} [one other] (take 2 (shuffle (range 1 201)))
                of (fn [n] (:balance (d/entity database n)))]
            (d/transact! {name} (into [{{:db/id one :balance (dec (of one))}}
                                       {{:db/id other :balance (inc (of other))}}]
                                      (map (fn [n] {{:db/id n :turn turn}})) (range 1 201))))
          (recur (inc turn))))))
      nil)"""
    )
    turns = set()
    try:
        for content in ("snapshot", "entities", "snapshot", "datoms"):
            job.run(content=content)
            text = job.restored(tmp_path / "restored.edn").read_text()
            balances = [int(found) for found in re.findall(r":balance (-?\d+)", text)]
            assert (len(balances), sum(balances)) == (200, 200_000)
            (turn,) = set(re.findall(r":turn (\d+)", text))
            turns.add(turn)
    finally:
        server.evaluate("(do (reset! busy false) @bank nil)")
    assert len(turns) > 1, "nothing was written meanwhile"
