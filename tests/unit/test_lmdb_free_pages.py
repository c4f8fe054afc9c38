# SPDX-License-Identifier: GPL-3.0-or-later
"""A data file may end before its last page where nothing but free pages is missing, and not where anything else is."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import SourceError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.lmdb.format import Meta, read_metas
from ansible_collections.embedded.db_backup.tests.fixtures import short_environment
from ansible_collections.embedded.db_backup.tests.fixtures.short_environment import PAGE

FREE_ROOT, LAST_PAGE = 80, 136


def current(path: Path) -> Meta:
    return read_metas(path)[0]


@pytest.fixture
def short(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "data.mdb"
    short_environment.make(path, getattr(request, "param", 200))
    return path


@pytest.mark.parametrize("short", [200, 6_000], ids=["list in a leaf", "list with pages of its own"], indirect=True)
def test_free_pages_may_be_missing_at_the_end_and_nothing_else(short: Path) -> None:
    size = short.stat().st_size
    assert current(short).used_size > size
    assert short_environment.content_of(short) == short_environment.content()
    for less in (1, PAGE, size - 3 * PAGE):
        os.truncate(short, size - less)
        with pytest.raises(SourceError, match=f"truncated: it has {size - less} bytes and its own header speaks of"):
            current(short)


def overwrite(path: Path, place: int, value: int) -> None:
    """Change a number in both meta pages."""
    content = bytearray(path.read_bytes())
    for page in range(2):
        struct.pack_into("<Q", content, page * PAGE + place, value)
    path.write_bytes(content)


def test_a_page_that_no_list_names_is_missed(short: Path) -> None:
    overwrite(short, LAST_PAGE, current(short).last_page + 1)
    with pytest.raises(SourceError, match="truncated"):
        current(short)


@pytest.mark.parametrize("root", [0, 1, 2**63, 2**64 - 1], ids=str)
def test_a_list_that_is_none_frees_nothing(short: Path, root: int) -> None:
    overwrite(short, FREE_ROOT, root)
    with pytest.raises(SourceError, match="truncated"):
        current(short)


def test_a_list_that_leads_in_a_circle_ends(short: Path) -> None:
    root = current(short).free_root
    content = bytearray(short.read_bytes())
    node = PAGE - 16
    # A branch of which every node leads back to it.
    struct.pack_into("<HHH", content, root * PAGE + 10, 1, node, node)
    for place in range(16, node, 2):
        struct.pack_into("<H", content, root * PAGE + place, node)
    struct.pack_into("<HHHH", content, root * PAGE + node, root & 0xFFFF, root >> 16, 0, 8)
    short.write_bytes(content)
    with pytest.raises(SourceError, match="truncated"):
        current(short)
