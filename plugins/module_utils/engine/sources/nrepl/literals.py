# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that EDN has no form for, written as tagged literals of our own, which can be read back.

| tag | of |
|---|---|
| embedded.db_backup/bytes | an array of bytes, in base64 |
| embedded.db_backup/array | an array of numbers: :float, :double, :int or :long, and the numbers |
| embedded.db_backup/float | a number of 32 bits, as one of 64 bits |
| embedded.db_backup/instant | a java.time.Instant |
| embedded.db_backup/chars | a text with zeros or half surrogate pairs, which UTF-8 or EDN cannot hold: its UTF-16 |
| embedded.db_backup/char | such a character |
| embedded.db_backup/keyword, embedded.db_backup/symbol | with a name that no reader takes: namespace and name |

Everything else that a reader would not give back equal is refused: a backup that lies is worse than none.
"""

from __future__ import annotations

_SPACE = "embedded.db_backup"
# The same for java.util.regex and for JavaScript with flag u. Half a surrogate pair is one that stands alone.
_UNPRINTABLE = r"[\\u0000\\ud800-\\udfff]"
_NAME = r"(?![+.-]?[0-9])[\\p{L}\\p{N}*+!_?<>=$&%.-]+"

_NESTED = """
      (tagged-literal? value)
      (if (= "embedded.db_backup" (namespace (:tag value)))
        (refuse "it has a tag that means something else in this export")
        (tagged-literal (:tag value) (encode (:form value))))
      (record? value) (refuse "it is a record")
      (map? value) (into {} (map (fn [[one other]] [(encode one) (encode other)])) value)
      (set? value) (into #{} (map encode) value)
      (vector? value) (mapv encode value)
      (sequential? value) (apply list (map encode value))
      :else (refuse "EDN has no form for it"))))"""

_START = """
(let [tagged (fn [tag form] (tagged-literal (symbol "embedded.db_backup" tag) form))
      refuse (fn [reason] (throw (ex-info reason {})))
      readable? (fn [text] (or (nil? text) (re-matches name-pattern text)))
      named (fn [value]
              (if (and (readable? (name value)) (readable? (namespace value))
                       (not (and (symbol? value) (contains? #{"nil" "true" "false"} (str value)))))
                value
                (tagged (if (keyword? value) "keyword" "symbol") [(namespace value) (name value)])))]
  (fn encode [value]
    (cond"""

# A function that turns a value into one that is printed as EDN.
JVM_ENCODE = (
    f'(let [unprintable (re-pattern "{_UNPRINTABLE}") name-pattern (re-pattern "{_NAME}")]'
    + _START
    + """
      (string? value) (if (re-find unprintable value) (tagged "chars" (mapv int value)) value)
      (or (nil? value) (boolean? value) (integer? value) (ratio? value) (decimal? value) (uuid? value)
          (instance? Double value) (instance? java.util.Date value))
      value
      (or (keyword? value) (symbol? value)) (named value)
      (char? value)
      (if (or (zero? (int value)) (Character/isSurrogate value)) (tagged "char" (int value)) value)
      (instance? Float value) (tagged "float" (double value))
      (instance? java.time.Instant value) (tagged "instant" (str value))
      (bytes? value) (tagged "bytes" (.encodeToString (java.util.Base64/getEncoder) ^bytes value))
      (and value (.isArray (class value)))
      (let [kind (keyword (.getName (.getComponentType (class value))))]
        (if (#{:float :double :int :long} kind)
          (tagged "array" [kind (mapv (if (= :float kind) double identity) value)])
          (refuse (str "it is an array of " (name kind)))))"""
    + _NESTED.replace('"EDN has no form for it"', '(str "EDN has no form for a " (.getName (class value)))')
    + ")"
)

NBB_ENCODE = (
    f'(let [unprintable (js/RegExp. "{_UNPRINTABLE}" "u") name-pattern (js/RegExp. "{_NAME}" "u")]'
    + _START
    + """
      (string? value)
      (if (re-find unprintable value)
        (tagged "chars" (mapv (fn [place] (.charCodeAt value place)) (range (count value))))
        value)
      (or (nil? value) (boolean? value) (number? value) (uuid? value)) value
      (instance? js/Date value) (if (js/isNaN (.getTime value)) (refuse "it is a date that is none") value)
      (or (keyword? value) (symbol? value)) (named value)
      (instance? js/Uint8Array value) (tagged "bytes" (.toString (js/Buffer.from value) "base64"))"""
    + _NESTED
    + ")"
)

# The readers of these tags, as clojure.edn takes them. Other tags are read with {:default tagged-literal}.
_READERS = """
{'embedded.db_backup/keyword (fn [[space text]] (keyword space text))
 'embedded.db_backup/symbol (fn [[space text]] (symbol space text))
 <others>}"""

JVM_READERS = _READERS.replace(
    "<others>",
    """
 'embedded.db_backup/bytes (fn [text] (.decode (java.util.Base64/getDecoder) ^String text))
 'embedded.db_backup/array (fn [[kind numbers]]
                             (({:float float-array :double double-array :int int-array :long long-array} kind) numbers))
 'embedded.db_backup/float float
 'embedded.db_backup/instant (fn [text] (java.time.Instant/parse text))
 'embedded.db_backup/chars (fn [units] (apply str (map char units)))
 'embedded.db_backup/char char""",
)

NBB_READERS = _READERS.replace(
    "<others>",
    """
 'embedded.db_backup/bytes (fn [text] (js/Uint8Array.from (js/Buffer.from text "base64")))
 'embedded.db_backup/chars (fn [units] (apply str (map (fn [unit] (js/String.fromCharCode unit)) units)))""",
)
