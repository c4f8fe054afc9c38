# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine tells of a container, heartbeats, and where Chroma keeps its data: single parts, and strange input."""

from __future__ import annotations

import gc
import http.server
import threading
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers import heartbeat
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.container import Container, Mount
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.containers.daemon import Daemon
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import BackupError, UsageError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.chroma import locations

ANSWER: dict[str, Any] = {
    "Id": "a" * 64,
    "Name": "/chroma",
    "Image": "sha256:1",
    "State": {"Status": "running", "Running": True, "Paused": False, "Pid": 7, "StartedAt": "now"},
    "Config": {
        "Image": "chromadb/chroma:1.5.9",
        "Env": ["TOKEN=secret=1", "PATH=/bin", "=odd", "bare"],
        "Entrypoint": ["dumb-init", "--"],
        "Cmd": ["chroma", "run"],
        "ExposedPorts": {"8000/tcp": {}, "53/udp": {}},
    },
    "GraphDriver": {"Data": {"MergedDir": "/var/lib/docker/x/merged"}},
    "HostConfig": {"AutoRemove": True},
    "Mounts": [
        {"Type": "bind", "Source": "/srv", "Destination": "/"},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/v/_data", "Destination": "/data"},
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
        {"Type": "bind", "Source": "relative", "Destination": "/x"},
        {"Type": "npipe", "Source": "/pipe", "Destination": "/pipe"},
    ],
    "NetworkSettings": {
        "Ports": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18000"}, {"HostIp": "::1", "HostPort": "1"}]},
        "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "none": {"IPAddress": ""}},
    },
}


def test_a_container() -> None:
    found = Container.of(ANSWER)
    assert (found.id, found.name, found.image, found.pid, found.is_running) == (
        "a" * 64,
        "chroma",
        "chromadb/chroma:1.5.9",
        7,
        True,
    )
    assert found.environment == {"TOKEN": "secret=1", "PATH": "/bin", "bare": ""}
    assert "secret" not in repr(found)
    assert found.is_removed_on_stop
    assert found.working_directory == "/"
    assert found.mounts == [
        Mount("/var/lib/docker/volumes/v/_data", PurePosixPath("/data")),
        Mount("/srv", PurePosixPath("/")),
    ]
    assert found.addresses == ["127.0.0.1:18000", "[::1]:1", "172.17.0.2:8000"]


@pytest.mark.parametrize("strange", [None, [], {}, "text", 7, True, {"x": 1}, [None, {"x": []}]])
def test_answers_of_another_form_are_no_reason_to_crash(strange: Any) -> None:
    assert not Container.of(strange).is_running
    for part, inner in ANSWER.items():
        found = Container.of({**ANSWER, part: strange})
        assert isinstance(found.mounts, list)
        if isinstance(inner, dict):
            for key in sorted(inner):
                Container.of({**ANSWER, part: {**inner, str(key): strange}})


# The library forgets the socket of a connection that fails; it may be found at any time.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("http://user:secret@127.0.0.1:1", "secret"),
        ("tcp://127.0.0.1:1/?token=secret", "secret"),
        ("ssh://me@host.invalid", ""),
        ("unix:///no/such/socket", ""),
        ("tcp://127.0.0.1:1", ""),
        ("https://127.0.0.1:1", ""),
        ("npipe:////./pipe/docker", ""),
        ("secret", "secret"),
        ("tcp://[::1", ""),
        ("tcp://127.0.0.1:port", ""),
    ],
)
def test_addresses_that_lead_nowhere(address: str, hidden: str) -> None:
    message = failure(address)
    gc.collect()
    assert "\n" not in message
    assert not hidden or hidden not in message
    assert "Docker engine at" in message or "docker_host" in message


def failure(address: str) -> str:
    with pytest.raises(BackupError) as caught, Daemon(address):
        pass
    return str(caught.value)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/v1/heartbeat" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server that knows one path."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class TestHeartbeat:
    def test_any_path_of_any_server(self, server: str) -> None:
        wanted = heartbeat.endpoints(["http://127.0.0.1:1", server], locations.HEARTBEAT_PATHS)
        found = heartbeat.wait_for(wanted, 5, lambda: True)
        assert str(found) == f"{server}/api/v1/heartbeat"

    def test_a_path_of_its_own(self, server: str) -> None:
        (wanted,) = heartbeat.endpoints([f"{server}/health"], locations.HEARTBEAT_PATHS[:1])
        assert str(wanted) == f"{server}/health"
        assert not heartbeat.first_that_answers([wanted])
        assert heartbeat.endpoints([server], []) == [heartbeat.Endpoint.of(server)._replace(path="/")]

    def test_gives_up(self, server: str) -> None:
        wanted = heartbeat.endpoints([f"{server}/health"], [])
        assert heartbeat.wait_for(wanted, 600, lambda: False) is None
        assert heartbeat.wait_for(wanted, 0, lambda: True) is None

    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:8000",
            "ftp://x",
            "http://",
            "http://me:secret@x",
            "http://x:y",
            "http://[",
            "http://x?token=secret",
        ],
    )
    def test_what_is_no_url(self, url: str) -> None:
        with pytest.raises(UsageError) as caught:
            heartbeat.endpoints([url], [])
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('persist_path: "/data"', "/data"),
        ("persist_path: /data", "/data"),
        ("persist_path:   /my data  # where it is", "/my data"),
        ("'persist_path': './chroma'", "./chroma"),
        ("port: 8000\r\npersist_path: '/a#b'\r\n", "/a#b"),
        ("# persist_path: /data", None),
        ("sub:\n  persist_path: /data", None),
        ("persist_path:/data", None),
        ("persist_path:", None),
        ("persist_path: ''", None),
        ('persist_path: "/a\\x41"', None),
        ("", None),
        ("\x00\xff", None),
    ],
)
def test_persist_path_of_a_configuration(text: str, path: str | None) -> None:
    assert locations.persist_path(text.encode("latin-1")) == path
