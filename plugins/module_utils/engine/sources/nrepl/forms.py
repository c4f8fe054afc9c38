# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clojure code that is sent. Each form is made of others, where <name> stands in it for the one of this name."""

from __future__ import annotations

import re

_PLACE = re.compile(r"<([a-z][a-z0-9_]*)>")

# Of a java.security.MessageDigest that is called digest.
JVM_SHA256 = '(apply str (map (fn [octet] (format "%02x" octet)) (.digest digest)))'

# What a var holds. A namespace that is not loaded yet is loaded, where the server can do that in the midst of a form.
_RESOLVED = """
(let [found (<resolve> '<name>)]
  (if found @found (throw (ex-info "there is no <name>, or its namespace is not loaded" {}))))"""


def fill(code: str, **parts: str) -> str:
    """The code with these parts in their places."""
    return _PLACE.sub(lambda place: parts[place[1]], code)


def resolved(name: str, resolve: str) -> str:
    """A form for what is in the var of this name."""
    return fill(_RESOLVED, name=name, resolve=resolve)
