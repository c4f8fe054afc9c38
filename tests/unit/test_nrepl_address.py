# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server is: what can be an address, and files that servers wrote their port to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import NoConnectionError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.nrepl.address import Address


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"port": 7888}, "127.0.0.1:7888"),
        ({"port": 1, "host": "app-1.example.com"}, "app-1.example.com:1"),
        ({"port": 65535, "host": "fe80::1%eth0"}, "[fe80::1%eth0]:65535"),
        ({"socket": "/run/app/nrepl.sock"}, "/run/app/nrepl.sock"),
        ({"port_file": "/srv/app/.nrepl-port", "tls_keys": "/x"}, "the port in /srv/app/.nrepl-port"),
    ],
    ids=str,
)
def test_addresses(fields: dict[str, Any], shown: str) -> None:
    address = Address(**fields)
    address.check()
    assert str(address) == shown


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "none of them is given"),
        ({"host": "app1"}, "none of them is given"),
        ({"port": 1, "socket": "/x"}, "not port and socket together"),
        ({"port": 1, "socket": "/x", "port_file": "/y"}, "not port and socket and port_file together"),
        ({"port": 0}, "port 0 is out of range"),
        ({"port": 65536}, "port 65536 is out of range"),
        ({"port": -1}, "port -1 is out of range"),
        ({"port": 1, "host": ""}, "host ''"),
        ({"port": 1, "host": "a b"}, "host 'a b'"),
        ({"port": 1, "host": "app1\n"}, "host 'app1\\n'"),
        ({"port": 1, "host": "a" * 254}, "is not a name"),
        ({"socket": ""}, "socket ''"),
        ({"socket": "/a\0b"}, "is not a path"),
        ({"socket": "/" + "a" * 107}, "is not a path of 1 to 107 bytes"),
        ({"socket": "/x", "host": "app1"}, "host and tls_keys are for servers on a port"),
        ({"socket": "/x", "tls_keys": "/y"}, "host and tls_keys are for servers on a port"),
    ],
    ids=str,
)
def test_what_is_no_address(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as told:
        Address(**fields).check()
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"7888", b"7888\n", b" 7888 \r\n"])
def test_a_port_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / ".nrepl-port"
    file.write_bytes(content)
    located = Address(port_file=str(file)).located()
    assert located.port == 7888
    assert str(located) == f"127.0.0.1:7888, as {file} says"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"0", "does not hold the number of a port"),
        (b"65536", "does not hold the number of a port"),
        (b"-1", "does not hold the number of a port"),
        (b"7888 7889", "does not hold the number of a port"),
        ("\u0667\u0668".encode(), "does not hold the number of a port"),
        (b"secret", "does not hold the number of a port"),
        (b"1" * 10_000_000, "does not hold the number of a port"),
        (b" " * 1000 + b"7888", "is empty"),
    ],
    ids=lambda entry: repr(entry[:12]),
)
def test_port_files_without_a_port(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / ".nrepl-port"
    file.write_bytes(content)
    fails(file, words)


def test_what_is_no_file(tmp_path: Path) -> None:
    fails(tmp_path / "missing", "No such file or directory")
    fails(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path / "pipe", "is not a file")
    (tmp_path / "real").write_text("7888")
    (tmp_path / "link").symlink_to("real")
    fails(tmp_path / "link", "is a link")
    (tmp_path / "dangling").symlink_to("nowhere")
    fails(tmp_path / "dangling", "is a link")
    fails(Path("/dev/zero"), "is not a file")


def fails(file: Path, words: str) -> None:
    with pytest.raises(NoConnectionError) as told:
        Address(port_file=str(file)).located()
    assert words in str(told.value)
    assert str(file) in str(told.value)
    assert "secret" not in str(told.value)
    assert str(told.value).isprintable()
