# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the tests of single parts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no fault, and a found example belongs into a test, not into a folder of the machine that found it.
settings.register_profile(
    "here", deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("here")
