# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that are known: how their datoms are read, as one consistent snapshot."""

from __future__ import annotations

import dataclasses
from typing import Dict

from .forms import fill, resolved

# All three keep these in what a connection holds. What is asked for first is part of the snapshot, or is older.
_INSPECTED = """
(let [connection <connection> database @connection]
  (str (:max-tx database) " " <process> "-" (hash [(hash connection) (:max-eid database) <schema>])))"""

# The datoms are counted as they are printed, so that nothing has to be kept.
_EXPORTED = """
(let [connection <connection>
      encode <encode>
      database @connection
      start (:max-tx database)
      schema <schema>
      told (str <process> "-" (hash [(hash connection) (:max-eid database) schema]))
      encoded (fn [entity attribute value]
                (try (encode value)
                  (catch <problem> problem
                    (throw (ex-info (str "the value of " (pr-str attribute) " of entity " entity
                                         " cannot be exported: " (ex-message problem)) {})))))]
  (print "{:embedded.db_backup/export 1")
  (print ", :database ") (pr <kind>)
  (print ", :content ") (pr <content>)
  (print ", :max-tx ") (pr start)
  (print ", :max-eid ") (pr (:max-eid database))
  <records>
    (print (str "], :count " count "}\\n"))
    (str count " " start " " <stop> " " told)))"""

_DATOMS = """
  <head>
  (print ", :datoms [\\n")
  (let [count (reduce (fn [count datom]
                        (let [attribute (:a datom)]
                          (pr [(:e datom) (encode attribute) (encoded (:e datom) attribute (:v datom)) (:tx datom)])
                          (print "\\n")
                          (inc count)))
                      0 <datoms>)]"""

_SCHEMA = """(print ", :schema ") (pr (encode schema))"""

# Maps made of the same datoms: to pull each entity could read a later state.
_ENTITIES = """
  (print ", :entities [\\n")
  (let [many? (fn [attribute] (= :db.cardinality/many (get-in schema [attribute :db/cardinality])))
        added (fn [entity datom]
                (let [attribute (:a datom)
                      value (encoded (:e datom) attribute (:v datom))]
                  (if (many? attribute)
                    (update entity (encode attribute) (fnil conj []) value)
                    (assoc entity (encode attribute) value))))
        count (reduce (fn [count datoms]
                        (pr (reduce added {:db/id (:e (first datoms))} datoms))
                        (print "\\n")
                        (inc count))
                      0 (partition-by :e <datoms>))]"""

# With references to attributes, Datahike has numbers for them, and a first transaction that all such databases have.
_DATAHIKE_DATOMS = """
(fn [database index]
  (let [datoms (<function> database index)
        names (:ref-ident-map database)]
    (if (:attribute-refs? (:config database))
      (sequence (comp (remove (fn [datom] (= <first_transaction> (:tx datom))))
                      (map (fn [datom] {:e (:e datom) :a (names (:a datom)) :v (:v datom) :tx (:tx datom)})))
                datoms)
      datoms)))"""
_FIRST_TRANSACTION = 0x20000000

_RECORDS = {
    "snapshot": _DATOMS.replace("<head>", _SCHEMA),
    "datoms": _DATOMS.replace("<head>", ""),
    "entities": _ENTITIES,
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A kind of database: its namespace, the index of all its datoms, and what gives its schema, and datoms.

    is_value tells that what a connection holds never changes. Else it is read again at the end what the last
    transaction was; the datoms themselves are read in one read transaction.
    """

    name: str
    namespace: str
    index: str
    schema: str
    is_value: bool
    datoms: str = "<function>"

    def inspected(self, connection: str, resolve: str, process: str) -> str:
        """A form that tells the last transaction, and what is the same as long as it is the same database."""
        return fill(_INSPECTED, connection=connection, process=process, schema=self._schema(resolve))

    def exported(self, connection: str, content: str, *, resolve: str, process: str, encode: str, problem: str) -> str:
        """A form that prints the export; it tells number of records, first and last transaction, and that identity."""
        datoms = f"({self.reading(resolve)} database {self.index})"
        return fill(
            _EXPORTED.replace("<records>", _RECORDS[content]),
            connection=connection,
            encode=encode,
            problem=problem,
            process=process,
            kind=f":{self.name}",
            content=f":{content}",
            schema=self._schema(resolve),
            datoms=datoms,
            stop="start" if self.is_value else "(:max-tx @connection)",
        )

    def reading(self, resolve: str) -> str:
        """A function of a database and an index that gives its datoms."""
        function = resolved(f"{self.namespace}/datoms", resolve)
        return fill(self.datoms, function=function, first_transaction=str(_FIRST_TRANSACTION))

    def _schema(self, resolve: str) -> str:
        return self.schema.replace("<schema_function>", resolved(f"{self.namespace}/schema", resolve))


PRESETS: Dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("datascript", "datascript.core", ":eavt", "(:schema database)", is_value=True),
        Preset("datahike", "datahike.api", ":eavt", "(:schema database)", is_value=True, datoms=_DATAHIKE_DATOMS),
        Preset("datalevin", "datalevin.core", ":eav", "(<schema_function> connection)", is_value=False),
    )
}
