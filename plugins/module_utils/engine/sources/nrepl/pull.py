# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Way pull: the server prints in a thread of its own, compressed, and waits until each piece is fetched.

So neither side has more than a few pieces in memory, and nothing has to be written there. When nobody fetches for a
while the thread ends by itself, as after our death; when all goes well, or fails, it is ended at once.

What the fetches share is in *command-line-args*: every session has a value of its own for it, which goes with the
session, and nobody else can see that of ours. A session also keeps its last three values: each fetch has it forget
those before, so that what our death leaves in the server is a session with one piece.
"""

from __future__ import annotations

import binascii
import contextlib
import zlib
from typing import Callable, Union

from ...errors import CorruptError, EvaluationError, SourceError
from ...nrepl.client import Client
from ...nrepl.deadline import Deadline
from ...stream.stages import CHUNK
from . import forms
from .forms import fill
from .told import Told, parse, unquoted

# Seconds for which the thread waits for the next fetch.
_PATIENCE = 60
# Bytes and number of the pieces that wait there, and for how many milliseconds a fetch waits for one.
_PIECE = 1 << 20
_PIECES = 3
_WAIT = 500
# Seconds before the deadline in which the thread is told to end.
_FAREWELL = 1.5

# Once a piece was not put, no other is: streams that are closed then would wait again. The thread stays until the last
# piece was fetched, as it is the one that drops them.
_BEGIN = """
(let [pieces (java.util.concurrent.ArrayBlockingQueue. <pieces>)
      wanted (atom true)
      put (fn [piece]
            (when-not (and (compare-and-set! wanted true false)
                           (.offer pieces piece <patience> java.util.concurrent.TimeUnit/SECONDS))
              (throw (InterruptedException. "nobody fetches the export")))
            (reset! wanted true))
      digest (java.security.MessageDigest/getInstance "SHA-256")
      deflater (java.util.zip.Deflater. 1)
      collected (proxy [java.io.OutputStream] []
                  (write [buffer start length]
                    (put (java.util.Arrays/copyOfRange ^bytes buffer (int start) (int (+ start length))))))
      fetched (fn []
                (loop [size 0 seconds 0]
                  (let [left (.size pieces)]
                    (cond
                      (zero? left) nil
                      (not= left size) (recur left 0)
                      (= seconds <patience>) (throw (InterruptedException. "nobody fetches the export"))
                      :else (do (Thread/sleep 1000) (recur left (inc seconds)))))))
      work (bound-fn []
             (try
               (let [told (with-open [stream (-> collected
                                                 (java.io.BufferedOutputStream. <piece>)
                                                 (java.util.zip.DeflaterOutputStream. deflater 65536)
                                                 (java.security.DigestOutputStream. digest))]
                            <streamed>)]
                 (put (str <sha256> " " told))
                 (fetched))
               (catch Throwable problem
                 (.clear pieces)
                 (.offer pieces problem))
               (finally (.end deflater))))
      thread (Thread. ^Runnable work "embedded.db_backup export")]
  (set! *command-line-args* {:pieces pieces :thread thread})
  (.setDaemon thread true)
  (.start thread)
  "")"""

# A piece in base64, or nothing as long as there is none, or what is told at the end.
_FETCH = """
(let [piece (.poll ^java.util.concurrent.BlockingQueue (:pieces *command-line-args*)
                   <wait> java.util.concurrent.TimeUnit/MILLISECONDS)]
  (set! *1 nil)
  (set! *2 nil)
  (when (instance? Throwable piece) (throw piece))
  (if (bytes? piece)
    (.encodeToString (java.util.Base64/getEncoder) ^bytes piece)
    (str piece)))"""

_END = """
(let [state *command-line-args*]
  (set! *command-line-args* nil)
  (when state
    (.interrupt ^Thread (:thread state))
    (.clear ^java.util.concurrent.BlockingQueue (:pieces state)))
  "")"""


def pull(client: Client, deadline: Deadline, streamed: str, write: Callable[[bytes], int]) -> Told:
    """Hand what the form streams to write, some bytes at a time.

    Raises SourceError with what the server says went wrong.
    """
    thread = _Thread(client, deadline)
    try:
        thread.begin(streamed)
        inflater = zlib.decompressobj()
        piece = thread.fetch()
        while isinstance(piece, bytes):
            while piece:
                write(inflater.decompress(piece, CHUNK))
                piece = inflater.unconsumed_tail
            piece = thread.fetch()
        if not inflater.eof:
            raise CorruptError("its end is missing")
    except (zlib.error, binascii.Error, CorruptError) as error:
        raise SourceError(f"what the server sends is not what it compressed: {error}") from error
    finally:
        thread.end()
    return parse(piece)


class _Thread:
    """The one in the server, and whether it can be spoken to: after an error of the client it cannot."""

    def __init__(self, client: Client, deadline: Deadline) -> None:
        self._client = client
        self._deadline = deadline
        self._can_ask = True

    def begin(self, streamed: str) -> None:
        """Start it."""
        parts = {"pieces": str(_PIECES), "piece": str(_PIECE), "sha256": forms.JVM_SHA256, "streamed": streamed}
        self._ask(fill(_BEGIN, patience=str(min(_PATIENCE, int(self._deadline.seconds))), **parts))

    def fetch(self) -> Union[bytes, str]:
        """The next piece, waited for, or the text at the end."""
        while True:
            if self._deadline.left() < _FAREWELL:
                raise EvaluationError(f"the export was not finished within {self._deadline.seconds:g} seconds")
            fetched = unquoted(self._ask(fill(_FETCH, wait=str(_WAIT))))
            if " " in fetched:
                return fetched
            if fetched:
                return binascii.a2b_base64(fetched)

    def end(self) -> None:
        """Have it end, if it has not."""
        if self._can_ask:
            with contextlib.suppress(SourceError):
                self._ask(_END)

    def _ask(self, code: str) -> str:
        self._can_ask = False
        answer = self._client.evaluate(code)
        self._can_ask = True
        return answer.only_value()
