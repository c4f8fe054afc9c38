# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Load what a preset exported back into a live database: all of it or nothing.

What the server made of the text is compared with what its database then gives, datom by datom, before the application
can see it. DataScript: the new database is a value, which takes the place of the old one in one step. Datalevin: all
is done in one transaction, which is given up when anything differs. Datahike: likewise, and first tried on a value.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, List, Optional

from ...errors import EvaluationError, UsageError
from ...nrepl.answer import Answer
from . import literals
from .forms import fill, resolved
from .jvm import Jvm
from .presets import PRESETS
from .runtime import Runtime
from .told import strange, unquoted

_STATE = """
(str (reduce (fn [count datom] (inc count)) 0 (<datoms> database <index>)) " " (:max-tx database))"""

_LOOKED = """
(let [connection <connection>
      database @connection]
  <state>)"""

# The last that the transactions tell of a datom counts. Only of what they touch is known how it is printed.
_REPLAYED = """
(let [datoms (mapcat :datoms transactions)
      touched (into #{} (map first) datoms)
      changes (into {} (map (fn [datom] [(key-of datom) (when (peek datom) (pop datom))])) datoms)
      kept (remove (fn [record] (and (touched (first record)) (contains? changes (key-of record)))) (:datoms snapshot))]
  (vec (sort-by first (concat kept (filter some? (vals changes))))))"""

# Both sides are ordered by entity; within one the order may differ. What is not equal to itself, as NaN, or only equal
# by its content, as an array of bytes, is compared as it is exported.
_SENT = """
(let [connection <connection>
      encode <encode>
      printed (fn [records]
                (binding [*print-length* nil *print-level* nil]
                  (frequencies (map (fn [record] (pr-str (mapv encode record))) records))))
      compare-all (fn [sent found]
                    (loop [sent (partition-by first sent)
                           found (partition-by first found)]
                      (let [one (first sent) other (first found)]
                        (when (or one other)
                          (when-not (or (= one other) (= (printed one) (printed other)))
                            (throw (ex-info (str "entity " (ffirst (or one other)) " is not as it was exported") {})))
                          (recur (rest sent) (rest found))))))
      key-of (fn [[entity attribute value]]
               (binding [*print-length* nil *print-level* nil] (pr-str [entity (encode attribute) (encode value)])))
      [snapshot & transactions] <sent>
      final (if transactions (assoc (last transactions) :max-tx (:tx (last transactions))) snapshot)
      sent (merge snapshot (select-keys final [:max-tx :max-eid]))
      records (if transactions <replayed> (:datoms snapshot))]
  (when-not (and (every? map? (cons snapshot transactions))
                 (apply < (:max-tx snapshot) (map :tx transactions))
                 (= [1 <kind> :snapshot] (map snapshot [:embedded.db_backup/export :database :content]))
                 (= <count> (:count snapshot) (count (:datoms snapshot)))
                 (= <basis> (:max-tx sent))
                 (every? (fn [record] (and (= 4 (count record)) (pos-int? (first record)) (pos-int? (peek record))))
                         records))
    (throw (ex-info "the text is no whole snapshot of such a database" {})))
  <used>)"""

# Of a database that is there already.
_COMPARED = """
(let [database @connection]
  (compare-all (map (fn [record] (subvec record 0 <width>)) records)
               (map (juxt <columns>) (<datoms> database <index>)))
  <same_schema>
  <state>)"""

_SAME_VALUE = """
(when-not (= (:schema sent) (:schema database))
  (throw (ex-info "the schema is not as it was exported" {})))"""

# There may be more attributes, of which some are always there.
_SAME_PROPERTIES = """
(let [made (<schema> connection)]
  (doseq [[attribute properties] (:schema sent)]
    (when-not (= (dissoc properties :db/aid) (dissoc (get made attribute) :db/aid))
      (throw (ex-info (str "the schema of " attribute " is not as it was exported") {})))))"""

_DATASCRIPT = """
(let [before @connection
      many (count (<datoms> before :eavt))
      make <make>
      database (assoc (<init> (map (fn [[entity attribute value tx]] (make entity attribute value tx)) records)
                              (:schema sent))
                 :max-tx (:max-tx sent)
                 :max-eid (:max-eid sent))]
  (when-not (or <force> (zero? many))
    (throw (ex-info (str "the database holds " many " datoms") {})))
  (compare-all records (map (juxt <columns>) (<datoms> database :eavt)))
  (reduce (fn [one other]
            (when (= [(:e one) (:a one) (:v one)] [(:e other) (:a other) (:v other)])
              (throw (ex-info (str "entity " (:e one) " has a datom twice") {})))
            other)
          nil (<datoms> database :eavt))
  <same_schema>
  (when-not (<exchange> connection before database)
    (throw (ex-info "the database was changed in the meantime" {})))
  (when (pos? many)
    (intern (create-ns 'embedded.db-backup) 'replaced before))
  <state>)"""

# Attributes that are made of others follow by themselves.
_DATALEVIN = """
(let [schema (into {} (map (fn [[attribute properties]] [attribute (dissoc properties :db/aid)])) (:schema sent))
      derived? (fn [[entity attribute]] (get-in schema [attribute :db/tupleAttrs]))]
  (datalevin.core/with-transaction [writing connection]
    (when (seq (<datoms> @writing :eav))
      (throw (ex-info "the database is not empty any more" {})))
    (<update_schema> writing schema)
    (doseq [batch (partition-all <batch> (remove derived? records))]
      (<transact> writing (mapv (fn [[entity attribute value]] [:db/add entity attribute value]) batch)))
    (compare-all (map (fn [record] (subvec record 0 <width>)) records)
                 (map (juxt <columns>) (<datoms> @writing :eav)))
    (let [connection writing] <same_schema>)
    (let [database @writing]
      <state>)))"""

# What is there without having been transacted does not count; a vector here is what an attribute of many values gives.
_SAME_ATTRIBUTES = """
(let [made (:schema database)
      own? (fn [[attribute properties]]
             (and (keyword? attribute) (seq properties) (not (re-matches #"db([.].*)?" (str (namespace attribute))))))
      plain (fn [properties]
              (into {} (map (fn [[name value]] [name (if (vector? value) (set value) value)])) properties))]
  (doseq [[attribute properties] (filter own? (:schema sent))]
    (when-not (= (plain properties) (plain (get made attribute)))
      (throw (ex-info (str "the schema of " attribute " is not as it was exported") {})))))"""

# It is tried on the value of the database first, where nothing is stored. The transaction is the last one of the backup
# itself, with its time: so all numbers are kept, and nothing is added. For that the number before it is put into the
# connection, as Datahike's own import does. A function makes the data: what Datahike logs of a failure is that only.
_DATAHIKE = """
(let [before @connection
      many (count (<datoms> before :eavt))
      basis (:max-tx sent)
      keeps-history? (:keep-history? (:config before))
      system? (fn [attribute]
                (and (keyword? attribute) (re-matches #"db([.].*)?" (str (namespace attribute)))))
      named (into #{} (comp (filter (fn [record] (= :db/ident (second record)))) (map first)) records)
      describes? (fn [record] (and (named (first record)) (system? (second record))))
      moment (first (filter (fn [record] (= [basis :db/txInstant] (subvec record 0 2))) records))
      numbers (if (:attribute-refs? (:config before)) (:ident-ref-map before) {})
      data (into [] (comp (remove (fn [record] (and keeps-history? (identical? record moment))))
                          (map (fn [[entity attribute value tx]]
                                 (<make> entity (get numbers attribute attribute) value tx))))
                 (concat (filter describes? records) (remove describes? records)))
      described (when moment {:tx-meta {:db/txInstant (nth moment 2)}})
      compare-with (fn [database]
                     (compare-all records (map (juxt <columns>) (<datoms> database :eavt)))
                     <same_schema>
                     (when-not (= basis (:max-tx database))
                       (throw (ex-info (str "its last transaction is " (:max-tx database)) {}))))
      plain (fn [text]
              (let [signs (into #{} (map char) (range 32 127))
                    known (disj signs \\" \\\\)]
                (apply str (map (fn [sign] (if (known sign) sign \\?)) (take <longest> (str text))))))
      is-begun (atom false)
      guarded (fn [database]
                (when-not (and (= (dec basis) (:max-tx database))
                               (every? (fn [datom] (= basis (:tx datom))) (<datoms> database :eavt)))
                  (throw (ex-info "the database was changed in the meantime" {})))
                (reset! is-begun true)
                data)
      commit (fn []
               (try
                 (<transact> connection (merge {:tx-data [[:db.fn/call guarded]]} described))
                 nil
                 (catch Throwable problem problem)))]
  (when (pos? many)
    (throw (ex-info (str "the database holds " many " datoms") {})))
  (when-not (contains? #{nil :self} (:backend (:writer (:config before))))
    (throw (ex-info "its connection has another process write; load where that one is" {})))
  (when-not (every? (fn [record] (<= (peek record) basis)) records)
    (throw (ex-info "a datom is of a transaction after the last one" {})))
  (when (and keeps-history? (not moment))
    (throw (ex-info "the database keeps history, and that of the backup did not" {})))
  (compare-with (:db-after (<try> (assoc before :max-tx (dec basis)) (merge {:tx-data data} described))))
  (swap! connection (fn [now]
                      (when-not (identical? before now)
                        (throw (ex-info "the database was changed in the meantime" {})))
                      (assoc now :max-tx (dec basis))))
  (let [problem (commit)]
    (when problem
      (swap! connection (fn [now] (if (= (dec basis) (:max-tx now)) (assoc now :max-tx (:max-tx before)) now))))
    (when (and problem (not @is-begun))
      (throw problem))
    (if problem
      (str "<uncommitted>" (plain (ex-message problem)))
      (let [database @connection]
        <state>))))"""

_BATCH = 10_000
# What begins a text that tells why a transaction was not committed, of which a part may be stored.
_UNCOMMITTED = "uncommitted: "
_LONGEST_REASON = 300
_FOUND = re.compile(r"([0-9]{1,18}) ([0-9]{1,18})", re.ASCII)

# In a JVM a transaction of DataScript holds the connection, in JavaScript nothing else runs.
_EXCHANGE = {
    "jvm": "(fn [place old new] (locking place (compare-and-set! place old new)))",
    "nbb": "compare-and-set!",
}


@dataclasses.dataclass(frozen=True)
class State:
    """How many datoms a live database holds, which may be unknown of one to be, and its last transaction."""

    datoms: Optional[int]
    basis: int


@dataclasses.dataclass(frozen=True)
class Loading:
    """A kind of database that can be loaded into. functions are those of its own that the forms name; same_schema fails
    unless the schema is as it was.

    keeps_basis: transactions keep their numbers. can_replace: what the database holds may be replaced, and stays in the
    var embedded.db-backup/replaced.
    """

    form: str
    same_schema: str
    functions: Dict[str, str]
    keeps_basis: bool
    can_replace: bool

    @property
    def columns(self) -> List[str]:
        """What of a datom is to be as it was."""
        return [":e", ":a", ":v", ":tx"] if self.keeps_basis else [":e", ":a", ":v"]


LOADINGS: Dict[str, Loading] = {
    "datascript": Loading(
        _DATASCRIPT,
        _SAME_VALUE,
        {"make": "datascript.core/datom", "init": "datascript.core/init-db"},
        keeps_basis=True,
        can_replace=True,
    ),
    "datahike": Loading(
        _DATAHIKE,
        _SAME_ATTRIBUTES,
        {"make": "datahike.core/datom", "try": "datahike.api/with", "transact": "datahike.api/transact"},
        keeps_basis=True,
        can_replace=False,
    ),
    "datalevin": Loading(
        _DATALEVIN,
        _SAME_PROPERTIES,
        {
            "transact": "datalevin.core/transact!",
            "update_schema": "datalevin.core/update-schema",
            "schema": "datalevin.core/schema",
        },
        keeps_basis=False,
        can_replace=False,
    ),
}


def check_loadable(database: str) -> Loading:
    """How this kind of database is loaded into.

    Raises UsageError when it cannot be.
    """
    if database not in LOADINGS:
        raise UsageError(
            f"backups of {database} are loaded by a function of the application; name it with import_function"
        )
    return LOADINGS[database]


def looked(runtime: Runtime) -> str:
    """A form that gives the state of the database."""
    return fill(_LOOKED, connection=runtime.connection, state=_state(runtime))


def compared(runtime: Runtime, sent: str, expected: State) -> str:
    """A form that fails unless the database holds what the form sent gives, and else gives the state."""
    return _with_sent(runtime, sent, expected, _COMPARED, index=PRESETS[str(runtime.options.database)].index)


def loaded(runtime: Runtime, sent: str, expected: State, force: bool) -> str:
    """A form that loads what the form sent gives, which must be as expected, and gives the state afterwards."""
    given = {"exchange": _EXCHANGE[runtime.name], "force": "true" if force else "false", "batch": str(_BATCH)}
    given.update(uncommitted=_UNCOMMITTED, longest=str(_LONGEST_REASON))
    return _with_sent(runtime, sent, expected, LOADINGS[str(runtime.options.database)].form, **given)


def _with_sent(runtime: Runtime, sent: str, expected: State, form: str, **given: str) -> str:
    preset = PRESETS[str(runtime.options.database)]
    loading = LOADINGS[preset.name]
    names = loading.functions.items()
    functions = {place: resolved(name, runtime.resolve) for place, name in names}
    functions["datoms"] = preset.reading(runtime.resolve)
    common = {"columns": " ".join(loading.columns), "width": str(len(loading.columns)), "state": _state(runtime)}
    common["same_schema"] = fill(loading.same_schema, **functions)
    return fill(
        _SENT,
        connection=runtime.connection,
        encode=literals.JVM_ENCODE if runtime.name == Jvm.name else literals.NBB_ENCODE,
        sent=sent,
        kind=f":{preset.name}",
        replayed=_REPLAYED,
        count="(:count snapshot)" if expected.datoms is None else str(expected.datoms),
        basis=str(expected.basis),
        used=fill(form, **given, **functions, **common),
    )


def _state(runtime: Runtime) -> str:
    preset = PRESETS[str(runtime.options.database)]
    return fill(_STATE, datoms=preset.reading(runtime.resolve), index=preset.index)


def check_committed(answer: Answer) -> None:
    """Raise EvaluationError for what the server answers to loaded when the database could not store it."""
    text = unquoted(answer.only_value())
    if text.startswith(_UNCOMMITTED):
        raise EvaluationError(
            f"it could not be stored: {text[len(_UNCOMMITTED) :]}; the application has to connect anew"
        )


def state_of(answer: Answer) -> State:
    """What the server answers to both forms.

    Raises EvaluationError with what it says went wrong, or for anything else.
    """
    text = unquoted(answer.only_value())
    found = _FOUND.fullmatch(text)
    if not found:
        raise strange(text)
    return State(*map(int, found.groups()))
