# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Where an nREPL server listens."""

    DOCUMENTATION = r"""
options:
  host:
    description: Name or address of the host that O(port) or O(port_file) are of. Without it, V(127.0.0.1).
    type: str
  port:
    description: Port of the server. Give exactly one of O(port), O(socket) and O(port_file).
    type: int
  socket:
    description: Path of the unix socket of the server, at most 107 bytes.
    type: path
  port_file:
    description: Path of the file that the server wrote its port to when it was started, as
      V(/srv/app/.nrepl-port). A link is not followed.
    type: path
  tls_keys:
    description:
      - File with three PEM blocks in this order, as nREPL 1.1 and newer have them. The certificate of the authority,
        the certificate of this client, and its private key without a password.
      - Only a server whose certificate that authority has signed is spoken to. The name of the host is not compared.
    type: path
notes:
  - For nREPL the target needs only Python itself, and the side of the server nothing but nREPL.
  - A session of its own is opened in the server and closed at the end, also when the run fails or is interrupted.
"""
