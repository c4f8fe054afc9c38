# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ClojureScript in Node.js, as nbb has it. A promise is refused: it would be printed, and not what it promises."""

from __future__ import annotations

from . import literals, quoting
from .forms import fill
from .presets import PRESETS
from .runtime import Runtime

_PRINTING = """
(binding [*print-length* nil *print-level* nil *print-dup* false *print-meta* false *print-readably* true
          *print-namespace-maps* false]
  <body>)"""

_SHA256 = '(.digest (.update (.createHash (js/process.getBuiltinModule "crypto") "sha256") <bytes>) "hex")'
_FILES = '(js/process.getBuiltinModule "fs")'
_REFUSED = '(when (instance? js/Promise value) (throw (ex-info "there is a promise, and no data yet" {})))'

_TEXT = """
(let [told (volatile! "")
      text (with-out-str (vreset! told <printed>))]
  (when-not (.isWellFormed text)
    (throw (ex-info "a text has half of a surrogate pair, which UTF-8 cannot hold" {})))
  <taken>)"""

_EXPRESSION = """
(let [value (identity <expression>
            )]
  <refused>
  (if (string? value) (print value) (pr value))
  "")"""

_VALUE = """
(let [bytes (js/Buffer.from text "utf8")]
  (str <sha> " " @told " " (.toString bytes "base64")))"""

_FILE = """
(let [bytes (js/Buffer.from text "utf8")]
  (.writeFileSync <files> <path> bytes)
  (str <sha> " " @told))"""

_FILE_OF_FUNCTION = """
(let [path <path>
      value <called>]
  <refused>
  (let [bytes (.readFileSync <files> path)]
    (str <sha> " ")))"""


class Nbb(Runtime):
    """One thread does everything here, so the application waits while an export is made."""

    name = "nbb"
    language = "node"

    @property
    def process(self) -> str:
        return "js/performance.timeOrigin"

    def as_value(self) -> str:
        return self._text(fill(_VALUE, sha=fill(_SHA256, bytes="bytes")))

    def in_file(self, path: str) -> str:
        parts = {"path": quoting.string(path), "files": _FILES, "sha": fill(_SHA256, bytes="bytes")}
        if self.options.function:
            called = fill(_PRINTING, body=self.called("path"))
            return fill(_FILE_OF_FUNCTION, called=called, refused=_REFUSED, **parts)
        return self._text(fill(_FILE, **parts))

    def _text(self, taken: str) -> str:
        return fill(_TEXT, printed=fill(_PRINTING, body=self._printed()), taken=taken)

    def _printed(self) -> str:
        if self.printing is not None:
            return self.printing
        if self.options.expression is not None:
            return fill(_EXPRESSION, expression=self.options.expression, refused=_REFUSED)
        return PRESETS[str(self.options.database)].exported(
            self.connection,
            self.options.content,
            resolve=self.resolve,
            process=self.process,
            encode=literals.NBB_ENCODE,
            problem=":default",
        )
