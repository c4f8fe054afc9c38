# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README shows is what the scenarios run."""

from __future__ import annotations

import re

from ansible_collections.embedded.db_backup.tests.tools import CHECKOUT


def test_the_existing_playbook_is_that_of_the_scenario() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert (CHECKOUT / "molecule/default/existing.yml").read_text().removeprefix("---\n") in examples
