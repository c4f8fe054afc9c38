# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a text to a server: compressed, in pieces that wait there in memory until all have come and its SHA-256 fits.

What waits is in a var that any session finds again, embedded.db-backup/arrival: there is at most one, the next load
takes its place, and when we die it is forgotten by itself once our time is over.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import secrets
import zlib
from typing import Dict, Iterable

from ...errors import SourceError
from ...nrepl.client import Client
from . import forms, literals
from .forms import fill, resolved
from .jvm import Jvm
from .nbb import Nbb
from .runtime import Runtime
from .told import strange, unquoted

# Bytes of each text literal, of which a class of the JVM holds at most 65,535 as base64; and how many are sent at once.
_PIECE = 45_000
_PIECES = 12
# Seconds after our deadline at which a server forgets what waits.
_PATIENCE = 30

# No form gives an empty text, which nbb sometimes takes for nothing.
_ARRIVAL = """
(let [arrival @(resolve 'embedded.db-backup/arrival)
      gathered (:gathered arrival)]
  (when-not (= "<token>" (:token arrival))
    (throw (ex-info "another load has begun on this server" {})))
  <body>)"""

_FORGOTTEN = """
(let [arrival (resolve 'embedded.db-backup/arrival)]
  (when (and arrival (= "<token>" (:token @arrival)))
    (intern 'embedded.db-backup 'arrival nil))
  "forgotten")"""

# And nbb takes the parts of a do that is not in another form for forms of their own.
_BEGUN = """
(let []
  (intern (create-ns 'embedded.db-backup) 'arrival {:token "<token>" :gathered <gathering>})
  <later>
  "begun")"""

_JVM_LATER = """
(doto (Thread. (fn [] (Thread/sleep <milliseconds>) <forgotten>) "embedded.db_backup load")
  (.setDaemon true)
  (.start))"""

_JVM_TAKEN = """
(do (doseq [piece [<pieces>]]
      (.write ^java.io.ByteArrayOutputStream gathered ^bytes (.decode (java.util.Base64/getDecoder) ^String piece)))
    (str (.size ^java.io.ByteArrayOutputStream gathered)))"""

_JVM_OPENED = """
(let [bytes (.toByteArray ^java.io.ByteArrayOutputStream gathered)
      opened (fn [] (java.util.zip.GZIPInputStream. (java.io.ByteArrayInputStream. bytes) 65536))
      digest (java.security.MessageDigest/getInstance "SHA-256")]
  (with-open [source (java.security.DigestInputStream. (opened) digest)]
    (let [buffer (byte-array 65536)]
      (while (not (neg? (.read source buffer))))))
  (when-not (= "<sha256>" <digested>) (throw (ex-info "the text did not arrive as it was sent" {})))
  <body>)"""

_JVM_READ = """
(with-open [source (-> (opened)
                       (java.io.InputStreamReader. java.nio.charset.StandardCharsets/UTF_8)
                       (java.io.BufferedReader. 65536)
                       (java.io.PushbackReader.))]
  (let [options {:readers <readers> :default tagged-literal :eof source}]
    (vec (take-while (fn [form] (not (identical? source form))) (repeatedly (fn [] (<reader> options source)))))))"""

_JVM_IN_FILE = """
(let [directory (.toFile (java.nio.file.Files/createTempDirectory
                           "db-backup-" (make-array java.nio.file.attribute.FileAttribute 0)))
      path (.getPath (java.io.File. directory "export.edn"))]
  (try
    (with-open [source (opened)]
      (java.nio.file.Files/copy ^java.io.InputStream source (.toPath (java.io.File. path))
                                ^"[Ljava.nio.file.CopyOption;" (make-array java.nio.file.CopyOption 0)))
    <called>
    "called"
    (finally
      (doseq [left (.listFiles directory)] (.delete left))
      (.delete directory))))"""

_NBB_LATER = "(.unref (js/setTimeout (fn [] <forgotten>) <milliseconds>))"

_NBB_TAKEN = """
(do (doseq [piece [<pieces>]] (swap! gathered conj (js/Buffer.from piece "base64")))
    (str (reduce + (map (fn [piece] (.-length piece)) @gathered))))"""

_NBB_OPENED = """
(let [bytes (.gunzipSync (js/process.getBuiltinModule "zlib") (js/Buffer.concat (into-array @gathered)))
      digest (.createHash (js/process.getBuiltinModule "crypto") "sha256")]
  (when-not (= "<sha256>" (.digest (.update digest bytes) "hex"))
    (throw (ex-info "the text did not arrive as it was sent" {})))
  <body>)"""

_NBB_READ = """
(<reader> {:readers <readers> :default tagged-literal} (str "[" (.toString bytes "utf8") "]"))"""

_NBB_IN_FILE = """
(let [files (js/process.getBuiltinModule "fs")
      directory (.mkdtempSync files (str (.tmpdir (js/process.getBuiltinModule "os")) "/db-backup-"))
      path (str directory "/export.edn")]
  (try
    (.writeFileSync files path bytes #js {:mode 0600})
    (let [value <called>]
      (when (instance? js/Promise value)
        (throw (ex-info "the function gives a promise, and nobody here waits for it" {}))))
    "called"
    (finally (.rmSync files directory #js {:recursive true :force true}))))"""


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """The forms for a kind of server. opened has the text at hand for its body, which is read, or in_file."""

    gathering: str
    later: str
    taken: str
    opened: str
    read: str
    in_file: str


_DIALECTS: Dict[str, _Dialect] = {
    Jvm.name: _Dialect(
        "(java.io.ByteArrayOutputStream.)",
        _JVM_LATER,
        _JVM_TAKEN,
        _JVM_OPENED.replace("<digested>", forms.JVM_SHA256),
        _JVM_READ.replace("<reader>", resolved("clojure.edn/read", "requiring-resolve")).replace(
            "<readers>", literals.JVM_READERS
        ),
        _JVM_IN_FILE,
    ),
    Nbb.name: _Dialect(
        "(atom [])",
        _NBB_LATER,
        _NBB_TAKEN,
        _NBB_OPENED,
        _NBB_READ.replace("<reader>", resolved("clojure.edn/read-string", "resolve")).replace(
            "<readers>", literals.NBB_READERS
        ),
        _NBB_IN_FILE,
    ),
}


class Arrival:
    """A text on its way to a server. seconds is how long we may need at most.

    Raises SourceError for a kind of server that cannot take one.
    """

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        if runtime.name not in _DIALECTS:
            raise SourceError(f"nothing can be loaded into a server of kind {runtime.name}")
        self._dialect = _DIALECTS[runtime.name]
        self._token = secrets.token_hex(16)
        self._milliseconds = int((seconds + _PATIENCE) * 1000)
        self._sha256 = ""

    def send(self, client: Client, chunks: Iterable[bytes]) -> None:
        """Send all of it.

        Raises SourceError with what the server says went wrong.
        """
        self._ask(client, self._begun())
        digest = hashlib.sha256()
        compression = zlib.compressobj(1, zlib.DEFLATED, 31)
        sent, waiting = 0, bytearray()
        for chunk in chunks:
            digest.update(chunk)
            waiting += compression.compress(chunk)
            while len(waiting) >= _PIECE * _PIECES:
                sent = self._send(client, waiting[: _PIECE * _PIECES], sent)
                del waiting[: _PIECE * _PIECES]
        waiting += compression.flush()
        while waiting:
            sent = self._send(client, waiting[: _PIECE * _PIECES], sent)
            del waiting[: _PIECE * _PIECES]
        self._sha256 = digest.hexdigest()

    @property
    def read(self) -> str:
        """A form for all that the reader finds in the text, a vector, where it is opened."""
        return self._dialect.read

    def called(self, runtime: Runtime) -> str:
        """A form that calls the function of the runtime with the path of a file with the text, where it is opened."""
        return fill(self._dialect.in_file, called=runtime.called("path"))

    def opened(self, body: str) -> str:
        """A form that gives what its body gives, once all has arrived and has the SHA-256 of what was sent."""
        return fill(_ARRIVAL, token=self._token, body=fill(self._dialect.opened, sha256=self._sha256, body=body))

    def forget(self, client: Client) -> None:
        """Have the server forget it."""
        self._ask(client, fill(_FORGOTTEN, token=self._token))

    def _begun(self) -> str:
        forgotten = fill(_FORGOTTEN, token=self._token)
        later = fill(self._dialect.later, milliseconds=str(self._milliseconds), forgotten=forgotten)
        return fill(_BEGUN, token=self._token, gathering=self._dialect.gathering, later=later)

    def _send(self, client: Client, data: bytearray, sent: int) -> int:
        starts = range(0, len(data), _PIECE)
        pieces = " ".join(f'"{base64.b64encode(data[start : start + _PIECE]).decode()}"' for start in starts)
        taken = fill(self._dialect.taken, pieces=pieces)
        told = self._ask(client, fill(_ARRIVAL, token=self._token, body=taken))
        if told != str(sent + len(data)):
            raise strange(told)
        return sent + len(data)

    @staticmethod
    def _ask(client: Client, code: str) -> str:
        return unquoted(client.evaluate(code).only_value())
