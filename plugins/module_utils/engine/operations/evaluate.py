# Copyright: the embedded.db_backup authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have an nREPL server evaluate code."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional

from ..errors import NoConnectionError, NotEvaluatedError
from ..nrepl.address import Address
from ..nrepl.answer import Answer
from ..nrepl.client import Client, check_text
from ..nrepl.deadline import Deadline
from ..processes import check_timeout


@dataclasses.dataclass(frozen=True)
class Request:
    """Which code, where, in which namespace, and within how many seconds all has to be done."""

    address: Address
    code: str
    ns: Optional[str] = None
    timeout: float = 60

    def check(self) -> None:
        """Raise UsageError for what makes no sense."""
        self.address.check()
        check_timeout(self.timeout)
        check_text("code", self.code)
        if self.ns is not None:
            check_text("ns", self.ns)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the server answered; problem is a sentence when that is no success. Without an answer nothing was asked."""

    answer: Optional[Answer] = None
    problem: Optional[str] = None

    @property
    def warnings(self) -> List[str]:
        """What the user should know."""
        if self.answer is None or not self.answer.dropped:
            return []
        return [f"{self.answer.dropped:,} bytes that the code printed are left out of out and err"]

    def to_json(self) -> Dict[str, Any]:
        """As the module returns it. That it changes nothing is known only of code that is not evaluated."""
        answer = self.answer
        return {
            "changed": answer is not None,
            "skipped": answer is None,
            "reason": "nothing is evaluated in check mode" if answer is None else None,
            "value": answer.value if answer and self.problem is None else None,
            "out": answer.out if answer else "",
            "err": answer.err if answer else "",
            "ex": (answer.ex or answer.root_ex) if answer else None,
            "warnings": self.warnings,
        }


def evaluate(request: Request, predict: bool = False) -> Evaluated:
    """Evaluate the code, or only check the request.

    Raises UsageError for a bad request, NotEvaluatedError when there is no server, EvaluationError when it did not
    finish. An answer that tells of an error is returned.
    """
    request.check()
    if predict:
        return Evaluated()
    try:
        with Client(request.address, Deadline(request.timeout)) as client:
            answer = client.evaluate(request.code, request.ns)
    except NoConnectionError as error:
        raise NotEvaluatedError(str(error)) from error
    return Evaluated(answer, answer.problem())
