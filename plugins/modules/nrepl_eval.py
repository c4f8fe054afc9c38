#!/usr/bin/python
# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nrepl_eval
short_description: Have an nREPL server evaluate code
version_added: 0.1.0
author:
  - The embedded.db_backup authors (@embedded-db-backup)
description:
  - Has a running Clojure application, or another one with an nREPL server, evaluate one form, and returns its value.
  - It succeeds only when the server says that the evaluation is done, nothing says that it failed, and there is exactly
    one value. A connection that breaks, and a server that goes silent, are failures.
  - What code does is not known. So the result is always C(changed), unless C(changed_when) says otherwise.
options:
  code:
    description:
      - The form, as it would be typed at a prompt. Of several forms one that fails does not stop the next, so several
        are a failure; write C((do ...)).
      - It may hold secrets, so it is neither logged on the target nor shown in the invocation. Ansible hides it in the
        results too, where they contain the whole of it. Code of less than 8 characters is shown, as results would be
        garbled without it.
    type: str
    required: true
  ns:
    description: The namespace to evaluate it in, which must be loaded. Without it that of a new session, as V(user).
    type: str
  timeout:
    description:
      - Seconds within which all has to be done, from connecting to the last answer.
      - Afterwards the server is told to interrupt the evaluation. It may not be able to.
    type: int
    default: 60
extends_documentation_fragment:
  - embedded.db_backup.nrepl
  - embedded.db_backup.attributes
attributes:
  check_mode:
    support: partial
    details: Nothing is evaluated and no server is asked; the task is skipped.
  diff_mode:
    support: none
    details: What code changes is not known.
"""

EXAMPLES = r"""
- name: Have an application flush its queue before the upgrade
  embedded.db_backup.nrepl_eval:
    port: 7888
    code: (my.app.queue/flush!)

- name: Ask how many datoms there are
  embedded.db_backup.nrepl_eval:
    port_file: /srv/app/.nrepl-port
    ns: my.app.core
    code: (count (datascript.core/datoms @conn :eavt))
  register: datoms
  changed_when: false

- name: Ask a server that wants TLS
  embedded.db_backup.nrepl_eval:
    host: app1.example.com
    port: 4001
    tls_keys: /etc/app/client.keys
    code: (my.app/version)
"""

RETURN = r"""
skipped:
  description: Whether nothing was evaluated, as in check mode.
  returned: success
  type: bool
  sample: false
reason:
  description: Why it was skipped.
  returned: success
  type: str
  sample: nothing is evaluated in check mode
value:
  description: The value, as the server prints it. Null when there is none.
  returned: success, and failure once the server has answered
  type: str
  sample: "42"
out:
  description: What the code printed, at most 1 MiB of it.
  returned: success, and failure once the server has answered
  type: str
  sample: ""
err:
  description: What the code printed to C(*err*), and the messages of errors, at most 1 MiB of it.
  returned: success, and failure once the server has answered
  type: str
  sample: ""
ex:
  description: The exception that the evaluation ended with, as the server names it.
  returned: success, and failure once the server has answered
  type: str
  sample: class java.lang.ArithmeticException
exit_code:
  description: The exit code of the command C(dbbackup) for the same failure. V(2) when nothing was evaluated, as for
    options that make no sense and a server that does not answer, V(1) for code that fails or does not end.
  returned: failure
  type: int
  sample: 1
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.embedded.db_backup.plugins.module_utils.adapter import NREPL_ARGUMENTS, finish, show_short_code
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations.evaluate import Request, evaluate


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "code": {"type": "str", "required": True, "no_log": True},
            "ns": {"type": "str"},
            "timeout": {"type": "int", "default": 60},
            **NREPL_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    show_short_code(module, "code")

    def work() -> Dict[str, Any]:
        params = module.params
        address = Address(**{name: params[name] for name in NREPL_ARGUMENTS})
        evaluated = evaluate(Request(address, params["code"], params["ns"], params["timeout"]), module.check_mode)
        result = evaluated.to_json()
        if evaluated.problem is not None:
            told = {name: result[name] for name in ("changed", "value", "out", "err", "ex")}
            module.fail_json(msg=evaluated.problem, exit_code=BackupError.exit_code, **told)
        return result

    finish(module, work)


if __name__ == "__main__":
    main()
