# SPDX-License-Identifier: GPL-3.0-or-later
"""The log of transactions on a JVM, where threads commit at the same time and report in any order.

No registry carries DataScript for a JVM. So a namespace of its name has the few functions that are used of it, which
commit and report as it does; test_tx_log has the real one.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import Job, literal
from ansible_collections.embedded.db_backup.tests.tools import Command, eventually
from ansible_collections.embedded.db_backup.tests.tx_logs import lines_in, logs_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Reports come after the commit, outside of any lock.
_DATASCRIPT = """
(do
  (ns datascript.core)
  (defn create-conn [schema]
    (atom {:max-tx 536870912 :max-eid 8 :schema schema :values {}} :meta {:listeners (atom {})}))
  (defn datoms [database index]
    (for [[entity [value transaction]] (sort (:values database))] {:e entity :a :n :v value :tx transaction}))
  (defn transact! [conn change]
    (let [report (volatile! nil)]
      (swap! conn
        (fn [database]
          (let [transaction (inc (:max-tx database))
                changed (change (:values database))
                data (mapcat (fn [[entity value]]
                               (let [[old] (get-in database [:values entity])]
                                 (concat (when old [{:e entity :a :n :v old :tx transaction :added false}])
                                         [{:e entity :a :n :v value :tx transaction :added true}])))
                             changed)
                after (-> database (assoc :max-tx transaction)
                          (update :values into (map (fn [[entity value]] [entity [value transaction]])) changed))]
            (vreset! report {:db-before database :db-after after :tx-data data})
            after)))
      (when (zero? (rand-int 3)) (Thread/sleep 0 (rand-int 300000)))
      (doseq [callback (vals @(:listeners (meta conn)))] (callback @report))
      @report))
  (defn listen! [conn key callback] (swap! (:listeners (meta conn)) assoc key callback) key)
  (in-ns 'user)
  nil)
"""
# Each transfer leaves the sum as it is.
_APPLICATION = """
(do
  (ns my.bank)
  (def conn (datascript.core/create-conn {:n {}}))
  (datascript.core/transact! conn (fn [_] (zipmap (range 8) (repeat 100))))
  (def running (atom true))
  (def ledger (atom #{}))
  (defn transfer! []
    (let [one (rand-int 8) other (mod (+ one 1 (rand-int 7)) 8) sum (rand-int 9)
          report (datascript.core/transact! conn
                   (fn [values] {one (- (first (values one)) sum) other (+ (first (values other)) sum)}))]
      (swap! ledger conj (:max-tx (:db-after report)))))
  (def writers (doall (for [_ (range 6)] (future (while @running (transfer!) (Thread/sleep 1))))))
  (in-ns 'user)
  nil)
"""
# The values at the end, and all sums on the way.
_FOLDED = """
(do
  (require 'clojure.edn 'clojure.string)
  (let [parsed (fn [text] (clojure.edn/read-string text))
        base (into {} (map (fn [[entity _ value]] [entity value])) (:datoms (parsed (slurp <export>))))
        lines (mapcat (fn [path] (clojure.string/split-lines (slurp path))) <logs>)
        states (reductions
                 (fn [values line]
                   (reduce (fn [values [entity _ value _ added]]
                             (if added
                               (assoc values entity value)
                               (if (= value (values entity)) (dissoc values entity) (throw (ex-info line {})))))
                           values (:datoms (parsed line))))
                 base (remove empty? lines))]
    (pr-str [(= (last states) (into {} (map (fn [[entity [value]]] [entity value])) (:values @my.bank/conn)))
             (set (map (fn [values] (reduce + (vals values))) states))])))
"""


@pytest.fixture
def job(jvm: Server, dbbackup: Command) -> Job:
    """Of a bank in which six threads transfer money."""
    jvm.evaluate(_DATASCRIPT)
    jvm.evaluate(_APPLICATION)
    where = {"database": "datascript", "connection": "my.bank/conn", "content": "tx_log", "install_listener": True}
    return Job(dbbackup, jvm, options=where)


def test_nothing_is_lost_between_threads(job: Job, tmp_path: Path) -> None:
    position = "(:max-tx @my.bank/conn)"
    first = job.run()["source"]["position"]["stop"]
    for _unused in range(6):
        before = int(job.server.evaluate(position))
        eventually(lambda before=before: int(job.server.evaluate(position)) > before + 200, "transfers go on")
        told = job.dbbackup.ok("run", job.name)
        assert (told["warnings"], told["backup"]["backup"]["type"]) == ([], "incr")
    job.server.evaluate("(do (reset! my.bank/running false) (run! deref my.bank/writers) nil)")
    job.run()
    place = job.restored(tmp_path / "restored")
    last = int(job.server.evaluate(position))
    lines = lines_in(place)
    assert [found for found, _time in lines] == list(range(first + 1, last + 1))
    assert all(one <= other for (_unused, one), (_also, other) in itertools.pairwise(lines))
    assert job.server.evaluate(f"(count (remove (fn [one] (<= 1 (- one 536870912) {last})) @my.bank/ledger))") == "0"
    folded = _FOLDED.replace("<export>", literal(place / "export.edn"))
    folded = folded.replace("<logs>", f"[{' '.join(map(literal, logs_in(place)))}]")
    assert job.server.evaluate(folded) == '"[true #{800}]"'


def test_a_reset_under_writers_is_seen(job: Job) -> None:
    job.run()
    # No thread reports anything between this and the next run that continues what the listener knows.
    job.server.evaluate("(do (swap! my.bank/conn assoc :spoilt true) nil)")
    (warning,) = job.dbbackup.ok("run", job.name)["warnings"]
    assert warning.endswith("the connection was reset to another database")
    assert job.dbbackup.ok("run", job.name)["warnings"] == []
    job.server.evaluate("(do (reset! my.bank/running false) (run! deref my.bank/writers) nil)")
