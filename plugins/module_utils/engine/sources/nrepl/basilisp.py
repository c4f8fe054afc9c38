# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Basilisp, a Clojure on Python. What its printer makes of texts its own reader refuses, so basilisp.edn prints."""

from __future__ import annotations

from typing import Dict

from ...errors import UsageError
from . import quoting
from .forms import fill
from .options import NreplOptions
from .runtime import Runtime

_SHA256 = '(.hexdigest (.sha256 (python/__import__ "hashlib") bytes))'

_TEXT = """
(let [value (identity <expression>
            )
      text (if (string? value) value ((requiring-resolve 'basilisp.edn/write-string) value))
      bytes (.encode text "utf-8")]
  <taken>)"""

_VALUE = '(str <sha> "  " (.decode (.b64encode (python/__import__ "base64") bytes) "ascii"))'

_FILE = """
(do (with-open [file (python/open <path> "wb")] (.write file bytes))
    (str <sha> " "))"""

_FILE_OF_FUNCTION = """
(let [path <path>]
  <called>
  (let [bytes (with-open [file (python/open path "rb")] (.read file))]
    (str <sha> " ")))"""


class Basilisp(Runtime):
    """No database is known for it."""

    name = "basilisp"
    language = "basilisp"

    def __init__(self, options: NreplOptions, versions: Dict[str, str]) -> None:
        super().__init__(options, versions)
        if options.database:
            raise UsageError(f"database {options.database} is not known to exist for basilisp; name a function")

    @property
    def process(self) -> str:
        return '(.getpid (python/__import__ "os"))'

    def as_value(self) -> str:
        return self._text(fill(_VALUE, sha=_SHA256))

    def in_file(self, path: str) -> str:
        parts = {"path": quoting.string(path), "sha": _SHA256}
        if self.options.function:
            return fill(_FILE_OF_FUNCTION, called=self.called("path"), **parts)
        return self._text(fill(_FILE, **parts))

    def _text(self, taken: str) -> str:
        return fill(_TEXT, expression=str(self.options.expression), taken=taken)
