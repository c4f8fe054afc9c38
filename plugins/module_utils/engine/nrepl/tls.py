# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mutual TLS as of nREPL 1.1: https://nrepl.org/nrepl/usage/tls.html

A file of keys has three PEM blocks: the certificate of an authority made for this server and its clients, the own
certificate, and its private key without a password.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
from typing import Iterator, List, Tuple

from ..errors import DESCRIPTORS, UsageError, sentence

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.+?-----END \1-----", re.DOTALL)
_CERTIFICATE = "CERTIFICATE"
_PRIVATE_KEY = "PRIVATE KEY"
_LONGEST_FILE = 1 << 20
# As OpenSSL names them.
_REASONS = {"KEY_VALUES_MISMATCH": "the private key is not that of the second certificate"}


def client_context(path: str) -> ssl.SSLContext:
    """What a client needs to show its certificate, and to trust no server but those of the authority in the file.

    The name of the host is not compared: certificates made for nREPL name none, and the authority, which nobody else
    uses, has signed for nothing but this server and its clients.

    Raises UsageError naming what is wrong with the file, never anything that is in it.
    """
    authority, own, key = _split(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=authority)
        with _in_memory(own + "\n" + key + "\n") as name:
            # Without this, OpenSSL would ask a person.
            context.load_cert_chain(name, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        told = _REASONS.get(str(reason), f"it does not hold two certificates and a key in PEM ({reason or error})")
        raise UsageError(f"tls_keys {path} cannot be used: {told}") from None
    return context


def _split(path: str) -> Tuple[str, str, str]:
    """The certificates of the authority and the own one, and the private key."""
    blocks = [(match.group(1), match.group(0)) for match in _BLOCK.finditer(_read(path))]
    certificates = [text for kind, text in blocks if kind == _CERTIFICATE]
    keys = [text for kind, text in blocks if kind.endswith(_PRIVATE_KEY)]
    missing: List[str] = []
    missing += [] if certificates else ["the certificate of the authority"]
    missing += [] if len(certificates) > 1 else ["the own certificate, which follows that of the authority"]
    missing += [] if keys else ["the private key"]
    if missing:
        raise UsageError(f"tls_keys {path} lacks {' and '.join(missing)}")
    if "ENCRYPTED" in keys[0]:
        raise UsageError(f"tls_keys {path} has a private key with a password; nREPL uses those without")
    return certificates[0], certificates[1], keys[0]


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            content = file.read(_LONGEST_FILE + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError as error:
        raise UsageError(f"tls_keys {sentence(error)}") from error
    if content is None or len(content) > _LONGEST_FILE:
        raise UsageError(f"tls_keys {path} is not a file of at most {_LONGEST_FILE >> 20} MiB")
    # PEM is ASCII; around the blocks there may be anything.
    return content.decode("latin-1")


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The name of a file that is on no disk and can be opened by this process only: OpenSSL reads keys from files."""
    descriptor = os.memfd_create("keys", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode("latin-1"))
        yield f"{DESCRIPTORS}{descriptor}"
    finally:
        os.close(descriptor)
