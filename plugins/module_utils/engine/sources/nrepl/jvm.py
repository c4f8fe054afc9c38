# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clojure on a JVM."""

from __future__ import annotations

from . import forms, literals, quoting
from .forms import fill
from .presets import PRESETS
from .runtime import Runtime

_PRINTING = """
(binding [*print-length* nil *print-level* nil *print-dup* false *print-meta* false *print-readably* true
          *print-namespace-maps* false *flush-on-newline* false]
  <body>)"""

# A namespace that is not loaded yet is left alone.
_KNOWN = """
(let [space (find-ns '<space>)]
  (when (and space (not (ns-resolve space '<own>)))
    (throw (ex-info "there is no <space>/<own>" {})))
  "")"""

# What an encoder of which nothing is demanded cannot encode becomes a question mark.
_TEXT = """
(let [encoder (.newEncoder java.nio.charset.StandardCharsets/UTF_8)]
  (try
    (with-open [writer (java.io.BufferedWriter. (java.io.OutputStreamWriter. stream encoder) 65536)]
      (binding [*out* writer] <printed>))
    (catch java.nio.charset.CharacterCodingException problem
      (throw (ex-info "a text has half of a surrogate pair, which UTF-8 cannot hold" {})))))"""

_EXPRESSION = """
(let [value (identity <expression>
            )]
  (if (string? value) (print value) (pr value))
  "")"""

# A directory, as the function may write aside and rename.
_FUNCTION = """
(let [directory (.toFile (java.nio.file.Files/createTempDirectory
                           "db-backup-" (make-array java.nio.file.attribute.FileAttribute 0)))
      file (java.io.File. directory "export.edn")]
  (try
    <called>
    (when-not (.isFile file) (throw (ex-info "<function> wrote no file" {})))
    (with-open [source (java.io.FileInputStream. file)]
      (let [buffer (byte-array 65536)]
        (loop [size (.read source buffer)]
          (when (pos? size)
            (.write stream buffer 0 size)
            (recur (.read source buffer))))))
    ""
    (finally
      (doseq [left (.listFiles directory)] (.delete left))
      (.delete directory))))"""

_FILE = """
(let [path <path>
      digest (java.security.MessageDigest/getInstance "SHA-256")
      told (with-open [stream (-> (java.io.FileOutputStream. path)
                                  (java.io.BufferedOutputStream. 65536)
                                  (java.security.DigestOutputStream. digest))]
             <streamed>)]
  (str <sha256> " " told))"""

_FILE_OF_FUNCTION = """
(let [path <path>
      digest (java.security.MessageDigest/getInstance "SHA-256")]
  <called>
  (with-open [source (java.security.DigestInputStream. (java.io.FileInputStream. path) digest)]
    (let [buffer (byte-array 65536)]
      (while (pos? (.read source buffer)))))
  (str <sha256> " "))"""

_VALUE = """
(let [digest (java.security.MessageDigest/getInstance "SHA-256")
      stream (java.io.ByteArrayOutputStream.)
      told <streamed>
      bytes (.toByteArray stream)]
  (.update digest bytes)
  (str <sha256> " " told " " (.encodeToString (java.util.Base64/getEncoder) bytes)))"""


class Jvm(Runtime):
    """Text is written to streams of bytes here, whatever the way."""

    name = "jvm"
    language = "clojure"
    can_stream = True
    resolve = "requiring-resolve"

    @property
    def process(self) -> str:
        return "(.getStartTime (java.lang.management.ManagementFactory/getRuntimeMXBean))"

    def known(self, function: str) -> str:
        space, own = function.split("/", 1)
        return fill(_KNOWN, space=space, own=own)

    def as_value(self) -> str:
        return fill(_VALUE, streamed=self.streamed(), sha256=forms.JVM_SHA256)

    def in_file(self, path: str) -> str:
        parts = {"path": quoting.string(path), "sha256": forms.JVM_SHA256}
        if self.options.function:
            return fill(_FILE_OF_FUNCTION, called=fill(_PRINTING, body=self.called("path")), **parts)
        return fill(_FILE, streamed=self.streamed(), **parts)

    def streamed(self) -> str:
        if self.options.function:
            called = fill(_PRINTING, body=self.called("(.getPath file)"))
            return fill(_FUNCTION, function=self.options.function, called=called)
        return fill(_TEXT, printed=fill(_PRINTING, body=self._printed()))

    def _printed(self) -> str:
        """A form that prints the content."""
        if self.printing is not None:
            return self.printing
        if self.options.expression is not None:
            return fill(_EXPRESSION, expression=self.options.expression)
        return PRESETS[str(self.options.database)].exported(
            self.connection,
            self.options.content,
            resolve=self.resolve,
            process=self.process,
            encode=literals.JVM_ENCODE,
            problem="Exception",
        )
