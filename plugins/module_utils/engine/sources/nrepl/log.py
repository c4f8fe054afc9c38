# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The transactions of a DataScript connection, as a listener of ours in the application keeps them between two backups.

It is in a var of a namespace of ours, and gone with the application. A report counts once the state before it is the
very one that the last report left: so nothing is missed when threads report in another order than they committed, and
a connection that was reset is seen. What the state last counted is, with the transactions up to it, is one value.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Optional

from ...errors import SourceError, UsageError
from ...nrepl.client import Client
from ...repository.manifest import Position
from . import literals, quoting
from .forms import fill, resolved
from .options import SNAPSHOT
from .presets import PRESETS
from .runtime import Runtime
from .told import FINGERPRINT, parse_inspected, strange, unquoted

# What a log may be: there is none; made just now; begun anew, as the connection was reset; as it was.
NONE, INSTALLED, RESET, READY = "none", "installed", "reset", "ready"

# Reports of other threads, of seconds.
_MOST_WAITING = 100_000

_PREPARED = re.compile(rf"({NONE}|{INSTALLED}|{RESET}|{READY}) {FINGERPRINT} ([0-9]{{1,18}}) ([0-9]{{1,18}})", re.ASCII)
# The log of this connection, an atom, or nil.
_LOG = """
(let [found (resolve 'embedded.db-backup.log/logs)
      log (get (when found @@found) <name>)]
  (when (and log (identical? connection (:connection @log))) log))"""

_FINGERPRINT = '(str (:identity state) "-" (hash (:schema (:last state))))'

_INSPECTED = """
(let [connection <connection>
      log <log>
      state (when log @log)]
  (cond
    (not log) "none"
    (identical? (:last state) @connection) (str (:max-tx (:last state)) " " <fingerprint>)
    :else ""))"""

# Transactions that no backup needs any more are dropped; and beyond the limit the oldest ones, needed or not. Only some
# at a time: while others change the log, a change of it must take no time, or it would never come to pass.
_SHORTENED = """
(fn [state]
  (let [needed (if (empty? (:consumers state)) 0 (apply min (vals (:consumers state))))]
    (loop [state state left 20]
      (let [entry (first (:entries state))]
        (if (and entry (pos? left) (or (<= (key entry) needed) (> (:size state) (:limit state))))
          (recur (-> state
                     (update :entries dissoc (key entry))
                     (update :size - (inc (count (:datoms (val entry)))))
                     (assoc :from (key entry)))
                 (dec left))
          state)))))"""

_APPENDED = """
(fn [state report time]
  (let [before (:max-tx (:db-before report))
        database (:db-after report)
        state (assoc state :last database :time (max time (:time state)))]
    (if (< before (:max-tx database))
      (shortened (-> state
                     (assoc-in [:entries (:max-tx database)]
                               {:time (:time state) :max-eid (:max-eid database) :datoms (vec (:tx-data report))})
                     (update :size + 1 (count (:tx-data report)))))
      (begun state database))))"""

# Reports wait by the transaction before them for the one that they continue. When those are too many it will not come.
_LINKED = """
(fn [state report time]
  (loop [state (assoc-in state [:waiting (:max-tx (:db-before report))] report)]
    (let [found (first (:waiting state))
          state (if found (update state :waiting dissoc (key found)) state)
          basis (:max-tx (:last state))]
      (cond
        (not found) state
        (identical? (:last state) (:db-before (val found))) (recur (appended state (val found) time))
        (< (key found) basis) (recur state)
        (> (count (:waiting state)) <most_waiting>) (assoc state :waiting (sorted-map))
        :else (assoc-in state [:waiting (key found)] (val found))))))"""

# Nothing that goes wrong here may reach the application: the log ends, and the next backup is a full one.
_INSTALLED = """
(let [log (atom {:connection connection})
      place (or (resolve 'embedded.db-backup.log/logs)
                (do (create-ns 'embedded.db-backup.log)
                    (intern 'embedded.db-backup.log 'logs (atom {}))))]
  (swap! log (fn [state] (begun (assoc state :limit <limit>) @connection)))
  (<listen> connection <key>
    (fn [report]
      (try
        (let [time <now>] (swap! log linked report time))
        (catch <problem> problem
          (swap! log assoc :last nil :waiting (sorted-map) :entries (sorted-map) :size 0)))))
  (swap! log (fn [state] (begun state @connection)))
  (swap! @place assoc <name> log)
  log)"""

# While transactions go on, the last one may not be counted yet. That others are tells that the connection is the same.
_IS_SETTLED = """
(loop [tries 0 earlier (:last @log)]
  (let [now (:last @log)]
    (cond
      (and now (identical? now @connection)) true
      (= tries <tries>) (not (identical? now earlier))
      :else (do <pause> (recur (inc tries) earlier)))))"""

_CONSUMED = """
(fn [state]
  (let [state (assoc state :limit <limit>)
        known (get-in state [:consumers <consumer>])
        published (when (= <identity> <fingerprint>) <published>)
        own (max (:from state) (or published known (:max-tx (:last state))))
        others (into {} (filter (fn [[_ needed]] (<= (:from state) needed))) (:consumers state))]
    (assoc state :consumers (assoc others <consumer> own))))"""

_PREPARE = """
(let [connection <connection>
      begun (fn [state database]
              (assoc state :identity (apply str (repeatedly 3 (fn [] (rand-int 1000000000))))
                           :last database :from (:max-tx database)
                           :entries (sorted-map) :size 0 :waiting (sorted-map) :consumers {} :time 0))
      shortened <shortened>
      appended <appended>
      linked <linked>
      known <log>
      log (or known (when <install> <installed>))]
  (if (not log)
    "none 0-0 0 0"
    (let [settled <is_settled>]
      (when (not settled)
        (swap! log (fn [state] (begun state @connection))))
      (swap! log <consumed>)
      (loop [from nil]
        (let [now (:from (swap! log shortened))]
          (when (not= from now) (recur now))))
      (let [state @log]
        (str (if known (if settled "ready" "reset") "installed")
             " " <fingerprint> " " (:from state) " " (:max-tx (:last state)))))))"""

_READ = """
(let [connection <connection>
      log <log>
      state (when log @log)]
  (when (or (not= <expected> <fingerprint>) (< <after> (:from state)))
    (throw (ex-info "the log of its transactions was begun anew just now; run it again" {})))
  <printed>)"""

_FULL = """
(let [database (atom (:last state))]
  <exported>)"""

_SINCE = """
(let [encode <encode>
      told (fn [time] <instant>)
      encoded (fn [datom]
                (try [(:e datom) (encode (:a datom)) (encode (:v datom)) (:tx datom) (:added datom)]
                  (catch <problem> problem
                    (throw (ex-info (str "the value of " (pr-str (:a datom)) " of entity " (:e datom)
                                         " cannot be exported: " (ex-message problem)) {} problem)))))
      count (reduce (fn [count [transaction entry]]
                      (print "{:tx ") (pr transaction)
                      (print (str ", :time #inst \\"" (told (:time entry)) "\\", :max-eid "))
                      (pr (:max-eid entry))
                      (print ", :datoms [")
                      (doseq [datom (:datoms entry)] (pr (encoded datom)) (print " "))
                      (print "]}\\n")
                      (inc count))
                    0 (subseq (:entries state) > <after>))]
  (str count " " <after> " " (:max-tx (:last state)) " " <fingerprint>))"""


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """What differs between the languages: errors, the clock, and how to wait for other threads, where there are any."""

    problem: str
    encode: str
    now: str
    instant: str
    pause: str = "nil"
    tries: int = 0


_DIALECTS: Dict[str, _Dialect] = {
    "jvm": _Dialect(
        problem="Exception",
        encode=literals.JVM_ENCODE,
        now="(System/currentTimeMillis)",
        instant="(.format (.withZone (java.time.format.DateTimeFormatter/ofPattern \"yyyy-MM-dd'T'HH:mm:ss.SSS'Z'\")"
        " java.time.ZoneOffset/UTC) (java.time.Instant/ofEpochMilli time))",
        pause="(Thread/sleep 20)",
        tries=500,
    ),
    "nbb": _Dialect(
        problem=":default",
        encode=literals.NBB_ENCODE,
        now="(js/Date.now)",
        instant="(.toISOString (js/Date. time))",
    ),
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A log that is ready to be read: how it was found, and what it holds, after start up to stop."""

    how: str
    fingerprint: str
    start: int
    stop: int

    def gap(self, prior: Optional[Position]) -> Optional[str]:
        """Why it does not continue the backup of this position, if it does not; or None."""
        if prior is None:
            return None
        if self.how == INSTALLED:
            return "the listener was installed just now, as after a start of the application"
        if self.how == RESET:
            return "the connection was reset to another database"
        if prior.fingerprint != self.fingerprint:
            same_history = self.fingerprint.partition("-")[0] == str(prior.fingerprint).partition("-")[0]
            return "the schema is another one" if same_history else "the history is another one since then"
        if not self.start <= prior.stop <= self.stop:
            return "the listener has dropped what was committed since then, as beyond listener_limit"
        return None


class TransactionLog:
    """The forms for the log of a connection."""

    def __init__(self, runtime: Runtime) -> None:
        if runtime.name not in _DIALECTS:
            raise UsageError(f"content tx_log is not known for a server of kind {runtime.name}")
        self._runtime = runtime
        self._dialect = _DIALECTS[runtime.name]
        self._name = quoting.string(str(runtime.options.connection))

    def inspect(self, client: Client) -> Optional[Position]:
        """Where it is, without a change to anything; None as long as that is not certain.

        Raises SourceError when there is no listener and none is to be installed.
        """
        told = unquoted(client.evaluate(self._fill(_INSPECTED)).only_value())
        if told == NONE:
            self._refuse_none()
            return None
        return parse_inspected(told)

    def prepare(self, client: Client, consumer: str, prior: Optional[Position]) -> Prepared:
        """Make the log ready to be read. consumer stands for this job.

        What the prior backup has is dropped, but for what others still need. Raises SourceError as inspect does.
        """
        value = client.evaluate(self._prepare(consumer, prior)).only_value()
        found = _PREPARED.fullmatch(unquoted(value))
        if not found:
            raise strange(value)
        if found[1] == NONE:
            self._refuse_none()
        return Prepared(found[1], found["fingerprint"], int(found[3]), int(found[4]))

    def _refuse_none(self) -> None:
        if not self._runtime.options.install_listener:
            raise SourceError(
                "content tx_log needs a listener of ours in the application, and there is none; install_listener "
                "installs it there"
            )

    def _prepare(self, consumer: str, prior: Optional[Position]) -> str:
        options = self._runtime.options
        listen = resolved("datascript.core/listen!", self._runtime.resolve)
        installed = self._fill(
            _INSTALLED,
            listen=listen,
            limit=str(options.listener_limit),
            key=f'(keyword "embedded.db-backup.log" {self._name})',
        )
        consumed = self._fill(
            _CONSUMED,
            limit=str(options.listener_limit),
            consumer=quoting.string(consumer),
            identity=quoting.string(str(prior.fingerprint)) if prior else '""',
            published=str(prior.stop) if prior else "nil",
        )
        return self._fill(
            _PREPARE,
            install="true" if options.install_listener else "false",
            installed=installed,
            consumed=consumed,
            shortened=_SHORTENED,
            appended=_APPENDED,
            linked=fill(_LINKED, most_waiting=str(_MOST_WAITING)),
            is_settled=self._fill(_IS_SETTLED, tries=str(self._dialect.tries), pause=self._dialect.pause),
        )

    def full(self, fingerprint: str) -> str:
        """A form that prints a snapshot of the last state that counts. Fails when the log is not this one any more."""
        options, runtime, dialect = self._runtime.options, self._runtime, self._dialect
        exported = PRESETS[str(options.database)].exported(
            "database",
            SNAPSHOT,
            resolve=runtime.resolve,
            process=runtime.process,
            encode=dialect.encode,
            problem=dialect.problem,
        )
        return self._read(fingerprint, fill(_FULL, exported=exported), after="(:from state)")

    def since(self, position: int, fingerprint: str) -> str:
        """A form that prints the transactions after this one, one per line."""
        return self._read(fingerprint, self._fill(_SINCE, after=str(position)), after=str(position))

    def _read(self, fingerprint: str, printed: str, after: str) -> str:
        return self._fill(_READ, expected=quoting.string(fingerprint), after=after, printed=printed)

    def _fill(self, code: str, **parts: str) -> str:
        dialect = self._dialect
        return fill(
            code,
            connection=self._runtime.connection,
            name=self._name,
            log=fill(_LOG, name=self._name),
            fingerprint=_FINGERPRINT,
            problem=dialect.problem,
            encode=dialect.encode,
            now=dialect.now,
            instant=dialect.instant,
            **parts,
        )
