# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of transaction logs share: a DataScript connection, and databases built of backups."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fixtures.nrepl_servers import Server
from .nrepl_exports import Job, literal
from .tools import Command

LINE = re.compile(r'\{:tx ([0-9]+), :time #inst "([^"]+)", ')

# The application: a connection, and all states that it ever had, by the last transaction.
_APPLICATION = """
(let [space (create-ns '<space>)
      conn (datascript.core/create-conn <schema>)
      states (atom (sorted-map))]
  (intern '<space> 'conn conn)
  (intern '<space> 'states states)
  (datascript.core/listen! conn :states
    (fn [{:keys [db-after]}] (swap! states assoc (:max-tx db-after) db-after)))
  (:max-tx @conn))
"""
SCHEMA = """{:name {:db/unique :db.unique/identity}
             :tags {:db/cardinality :db.cardinality/many}
             :friend {:db/valueType :db.type/ref}
             :parts {:db/valueType :db.type/ref :db/cardinality :db.cardinality/many :db/isComponent true}}"""

# A database of the files of a backup, each transaction as one again.
_REBUILT = """
(let [files (js/process.getBuiltinModule "fs")
      content (fn [path] (.readFileSync files path "utf8"))
      readers {'embedded.db_backup/chars
               (fn [units] (apply str (map (fn [unit] (js/String.fromCharCode unit)) units)))
               'embedded.db_backup/keyword (fn [[space text]] (keyword space text))}
      parsed (fn [text] (clojure.edn/read-string {:readers readers :default tagged-literal} text))
      datom (fn [[entity attribute value transaction added]]
              (datascript.core/datom entity attribute value transaction (not (false? added))))
      snapshot (parsed (content <export>))
      base (assoc (datascript.core/init-db (map datom (:datoms snapshot)) (:schema snapshot))
                  :max-tx (:max-tx snapshot) :max-eid (:max-eid snapshot))]
  (reduce (fn [database line]
            (let [{:keys [tx max-eid datoms]} (parsed line)]
              (when (not= tx (inc (:max-tx database))) (throw (ex-info (str "transaction " tx " does not follow") {})))
              (assoc (datascript.core/db-with database (map datom datoms)) :max-eid max-eid)))
          base (remove empty? (mapcat (fn [path] (.split (content path) "\\n")) <logs>))))
"""
_numbers = itertools.count()


@dataclass
class Application:
    """A connection in an application, and a job for its transactions."""

    server: Server
    job: Job
    space: str

    @property
    def conn(self) -> str:
        return f"{self.space}/conn"

    def transact(self, *transactions: str) -> None:
        """Commit each of them."""
        committed = " ".join(f"(datascript.core/transact! {self.conn} {one})" for one in transactions)
        self.server.evaluate(f"(do {committed} nil)")

    def position(self) -> int:
        """The last transaction."""
        return int(self.server.evaluate(f"(:max-tx @{self.conn})"))

    def positions(self) -> list[int]:
        """Every transaction so far."""
        return list(map(int, self.server.evaluate(f"(vec (keys @{self.space}/states))").strip("[]").split()))

    def run(self, **options: Any) -> dict[str, Any]:
        """Back up now; returns the result."""
        self.job.described(**options)
        told: dict[str, Any] = self.job.dbbackup.ok("run", self.job.name)
        return told

    def log(self, form: str) -> Any:
        """What is in the listener's log of this connection, as JSON."""
        found = f'@(get @@(resolve \'embedded.db-backup.log/logs) "{self.conn}")'
        text = self.server.evaluate(f"(let [log {found}] (js/JSON.stringify (clj->js {form})))")
        return json.loads(json.loads(text))

    def restored(self, place: Path, *arguments: str) -> dict[str, Any]:
        told: dict[str, Any] = self.job.dbbackup.ok("restore", self.job.name, "--dest", place, "--force", *arguments)
        return told

    def evaluated(self, form: str, place: Path) -> str:
        """The value of a form, with the database that is built of these files as <rebuilt>."""
        logs = " ".join(literal(path) for path in logs_in(place))
        rebuilt = _REBUILT.replace("<export>", literal(place / "export.edn")).replace("<logs>", f"[{logs}]")
        self.server.evaluate("(require '[clojure.edn])")
        return self.server.evaluate(form.replace("<rebuilt>", rebuilt))

    def is_rebuilt(self, place: Path, state: str | None = None) -> bool:
        """Whether the database that is built of these files is equal to that state, or to the one there is now."""
        datoms = "(map (juxt :e :a :v :tx) (datascript.core/datoms one :eavt))"
        same = f"(fn [one] [one (:schema one) (:max-tx one) (:max-eid one) {datoms}])"
        return self.evaluated(f"(= ({same} <rebuilt>) ({same} {state or f'@{self.conn}'}))", place) == "true"

    def state_at(self, position: int) -> str:
        """A form for the state after this transaction."""
        return f"(get @{self.space}/states {position})"


def application(server: Server, dbbackup: Command, space: str | None = None) -> Application:
    """A new connection at the server, with two transactions, and a job that may install the listener."""
    made = Application(server, Job(dbbackup, server), space or f"app{next(_numbers)}")
    begin(made)
    made.job.options = {
        "database": "datascript",
        "connection": made.conn,
        "content": "tx_log",
        "install_listener": True,
    }
    return made


def begin(made: Application) -> None:
    """Start the application, or start it anew."""
    made.server.evaluate(_APPLICATION.replace("<space>", made.space).replace("<schema>", SCHEMA))
    made.transact('[{:name "one" :n 1}]', '[{:name "two" :n 2 :friend [:name "one"]}]')


def logs_in(place: Path) -> list[Path]:
    """The files of transactions, in their order."""
    return sorted(place.glob("transactions-*.edn"))


def lines_in(place: Path) -> list[tuple[int, str]]:
    """Position and time of each transaction in the files."""
    lines = [line for path in logs_in(place) for line in path.read_text().splitlines()]
    found = [LINE.match(line) for line in lines]
    return [(int(one[1]), one[2]) for one in found if one]
