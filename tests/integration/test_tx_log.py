# SPDX-License-Identifier: GPL-3.0-or-later
"""Transaction logs of real DataScript: every state between two backups comes back, and a gap never goes unseen."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine import jobs
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.errors import LockedError
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.operations import backup
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.manifest import Manifest
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.repository.staging import Staging
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.base import Capture
from ansible_collections.embedded.db_backup.plugins.module_utils.engine.sources.nrepl.source import NreplSource
from ansible_collections.embedded.db_backup.tests.fixtures import nrepl_servers
from ansible_collections.embedded.db_backup.tests.fixtures.nrepl_servers import Server
from ansible_collections.embedded.db_backup.tests.nrepl_exports import Job
from ansible_collections.embedded.db_backup.tests.tools import Ansible, Command, eventually, process
from ansible_collections.embedded.db_backup.tests.tx_logs import Application, application, begin, lines_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# All kinds of changes, and values on which lines or printers break.
CHANGES = [
    '[{:name "three" :tags ["a" "b\\nc" "d\\"e\\\\"] :parts [{:n 7} {:n 8}]}]',
    '[[:db/add [:name "one"] :n 100] [:db/retract [:name "three"] :tags "a"]]',
    "[]",
    '[{:name "😀 👩‍👩‍👧" :at #inst "2026-11-21T01:30:00.123" :id #uuid "7a3e5a3e-1c2b-4d3e-8f90-123456789abc"}]',
    '[{:name "values" :vector [1 [2 {:x #{:y}}]] :symbol (quote a/b) :float 1.5 :yes true :key :a/b}]',
    '[{:name "odd" :half (js/String.fromCharCode 55357 10 34) :keyword (keyword "a b" "c\\nd")}]',
    '[[:db.fn/retractEntity [:name "three"]]]',
    '[{:name "last"} [:db.fn/retractEntity [:name "last"]]]',
    '[{:name "short-lived" :n 1}]',
    '[[:db.fn/retractEntity [:name "short-lived"]]]',
]


@pytest.fixture
def app(datascript: Server, dbbackup: Command) -> Application:
    """A new connection, and a job."""
    return application(datascript, dbbackup)


@pytest.fixture
def chain(app: Application) -> Application:
    """With a full backup and three increments, each of some changes."""
    app.run()
    for number in (0, 4, 7):
        app.transact(*CHANGES[number : {0: 4, 4: 7, 7: 99}[number]])
        app.run()
    return app


def kinds(app: Application) -> list[str]:
    """full or incr of each backup, oldest first."""
    (told,) = app.job.dbbackup.ok("list", app.job.name)
    return [backup["type"] for backup in told["backups"]][::-1]


def ids(app: Application) -> list[str]:
    return app.job.dbbackup.backups(app.job.name)


class TestRestore:
    def test_the_newest_state(self, chain: Application, tmp_path: Path) -> None:
        assert kinds(chain) == ["full", "incr", "incr", "incr"]
        told = chain.restored(tmp_path / "restored")
        assert told["position"] == chain.position()
        assert chain.is_rebuilt(tmp_path / "restored")

    def test_every_position(self, chain: Application, tmp_path: Path) -> None:
        first = chain.position() - len(CHANGES)
        for number, position in enumerate(range(first, chain.position() + 1)):
            place = tmp_path / str(number)
            told = chain.restored(place, "--position", str(position))
            assert told["position"] == position
            assert chain.is_rebuilt(place, chain.state_at(position)), position
        assert chain.restored(place)["changed"] is False

    def test_every_time(self, chain: Application, tmp_path: Path) -> None:
        chain.restored(tmp_path / "all")
        lines = lines_in(tmp_path / "all")
        assert [position for position, _time in lines] == chain.positions()[2:]
        for moment in sorted({moment for _position, moment in lines}):
            expected = max(position for position, then in lines if then <= moment)
            place = tmp_path / moment
            assert chain.restored(place, "--at", moment)["position"] == expected
            assert chain.is_rebuilt(place, chain.state_at(expected)), expected

    def test_of_each_backup(self, chain: Application, tmp_path: Path) -> None:
        for number, one in enumerate(ids(chain)):
            told = chain.restored(tmp_path / one, "--id", one)
            assert len(told["files"]) == number + 1
            assert chain.is_rebuilt(tmp_path / one, chain.state_at(told["position"]))

    def test_by_hand(self, chain: Application, tmp_path: Path) -> None:
        manifest = chain.job.dbbackup.ok("verify", chain.job.name)["backup"]
        (tmp_path / "by hand").mkdir()
        script = "\n".join(["set -e", *manifest["restore_by_hand"]])
        script = script.replace("DESTINATION", f"'{tmp_path}/by hand'")
        with process(["sh", "-c", script]) as shell:
            assert shell.wait(60) == 0
        assert chain.is_rebuilt(tmp_path / "by hand")

    def test_later_transactions_do_not_stay(self, chain: Application, tmp_path: Path) -> None:
        """A person who loads all files of the directory must not load what was left out."""
        place = tmp_path / "restored"
        chain.restored(place)
        position = chain.position() - 5
        told = chain.restored(place, "--position", str(position))
        assert chain.is_rebuilt(place, chain.state_at(position))
        assert any("transactions-" in path for path in told["aside"])
        assert chain.restored(place, "--position", str(position))["changed"] is False

    def test_beyond_all_backups(self, chain: Application, tmp_path: Path) -> None:
        last, first = chain.position(), chain.position() - len(CHANGES)
        for position in (first - 1, last + 1):
            told = chain.job.dbbackup.fails(
                10, "restore", chain.job.name, "--dest", tmp_path / "x", "--position", str(position)
            )
            assert told.endswith(f"holds position {position}; they hold {first} to {last}")
        told = chain.job.dbbackup.fails(10, "restore", chain.job.name, "--dest", tmp_path / "x", "--at", "2020-01-01")
        assert f"or before; the oldest one is {ids(chain)[0]}" in told
        assert "is not a time" in chain.job.dbbackup.fails(2, "restore", chain.job.name, "--at", "yesterday")
        assert not (tmp_path / "x").exists()

    def test_by_the_module(self, chain: Application, tmp_path: Path, ansible: Ansible) -> None:
        where = {"name": chain.job.name, "repository": str(chain.job.dbbackup.repository)}
        position = chain.position() - 5
        asked = {**where, "dest": str(tmp_path / "restored"), "position": position}
        predicted = ansible.module("embedded.db_backup.backup_restore", "--check", **asked)
        assert (predicted["changed"], predicted["position"]) == (True, position)
        assert not (tmp_path / "restored").exists()
        assert ansible.module("embedded.db_backup.backup_restore", **asked)["position"] == position
        assert chain.is_rebuilt(tmp_path / "restored", chain.state_at(position))
        assert not ansible.module("embedded.db_backup.backup_restore", **asked)["changed"]
        moment = lines_in(tmp_path / "restored")[-1][1]
        told = ansible.module("embedded.db_backup.backup_restore", **where, dest=str(tmp_path / "at"), at=moment)
        assert chain.is_rebuilt(tmp_path / "at", chain.state_at(told["position"]))
        told = ansible.module("embedded.db_backup.backup_restore", **asked, at=moment)
        assert told["failed"]

    def test_verify_and_drill_read_all_of_it(self, chain: Application) -> None:
        assert chain.job.dbbackup.ok("verify", chain.job.name)["opened"]
        proven = chain.job.dbbackup.ok("drill", chain.job.name)["proven"]
        assert proven == ["read whole as EDN, a snapshot and 3 files of transactions that continue it"]


class TestListener:
    def test_there_must_be_one(self, app: Application) -> None:
        told = app.job.fails(install_listener=False)
        assert told.endswith("and there is none; install_listener installs it there")

    def test_that_it_is_installed_is_told_once(self, app: Application) -> None:
        (warning,) = app.run()["warnings"]
        assert warning.startswith("a listener was installed in the application")
        assert app.run()["warnings"] == []
        assert app.run(install_listener=False)["warnings"] == []
        assert kinds(app) == ["full", "incr", "incr"]

    def test_check_mode_changes_nothing(self, app: Application, ansible: Ansible) -> None:
        listeners = f"(count @(:listeners (meta {app.conn})))"
        before = app.server.evaluate(listeners)
        app.job.described()
        app.job.dbbackup.ok("run", app.job.name, "--dry-run")
        arguments = {"name": app.job.name, "repository": str(app.job.dbbackup.repository), **app.server.options}
        done = ansible.module("embedded.db_backup.nrepl_export", "--check", **arguments, **app.job.options)
        assert done["changed"]
        assert app.server.evaluate(listeners) == before
        app.run()
        app.transact("[]")
        held = app.log("(count (:entries log))")
        app.job.dbbackup.ok("run", app.job.name, "--dry-run")
        assert app.log("(count (:entries log))") == held == 1

    def test_keeps_what_no_published_backup_has(self, chain: Application) -> None:
        """The run after it drops what a backup holds: before that it might not have been published."""
        assert chain.log("(keys (:entries log))") == chain.positions()[-3:]
        chain.run()
        assert chain.log("[(count (:entries log)) (:size log) (:from log)]") == [0, 0, chain.position()]

    def test_two_jobs_do_not_take_it_from_each_other(self, chain: Application, tmp_path: Path) -> None:
        other = Command(tmp_path / "other", tmp_path / "other.d")
        theirs = Application(chain.server, Job(other, chain.server, options=chain.job.options), chain.space)
        theirs.run()
        chain.transact(*CHANGES[:2])
        for _unused in range(3):
            chain.run()
            chain.transact("[]")
        told = theirs.run()
        assert (told["warnings"], told["backup"]["backup"]["type"]) == ([], "incr")
        theirs.restored(tmp_path / "restored")
        assert theirs.is_rebuilt(tmp_path / "restored")
        chain.run()
        chain.restored(tmp_path / "again")
        assert chain.is_rebuilt(tmp_path / "again")

    def test_unchanged_is_known(self, chain: Application) -> None:
        assert chain.run(skip_unchanged=True)["skipped"]
        chain.transact("[]")
        assert not chain.run(skip_unchanged=True)["skipped"]
        chain.server.evaluate(f"(do (reset! {chain.conn} (datascript.core/db-with @{chain.conn} [])) nil)")
        assert not chain.run(skip_unchanged=True)["skipped"]

    def test_what_goes_wrong_in_it_does_not_reach_the_application(self, app: Application) -> None:
        """As when somebody spoils its log."""
        app.run()
        app.server.evaluate(
            f'(do (swap! (get @@(resolve \'embedded.db-backup.log/logs) "{app.conn}") assoc :entries :spoilt) nil)'
        )
        app.transact('[{:name "goes on"}]')
        told = app.run()
        assert told["backup"]["backup"]["type"] == "full"
        assert "cannot be continued" in told["warnings"][0]

    def test_a_value_that_cannot_be_exported_is_told_until_a_full_backup_leads_on(
        self, chain: Application, tmp_path: Path
    ) -> None:
        chain.transact('[{:name "function" :f inc}]', '[[:db.fn/retractEntity [:name "function"]]]')
        for _unused in range(2):
            assert "the value of :f of entity" in chain.job.fails()
        chain.run(full_every=1)
        chain.transact(CHANGES[0])
        assert chain.run()["warnings"] == []
        assert kinds(chain)[-2:] == ["full", "incr"]
        chain.restored(tmp_path / "restored")
        assert chain.is_rebuilt(tmp_path / "restored")


def start_anew(app: Application) -> None:
    begin(app)


def reset(app: Application) -> None:
    """To another database with the same number of its last transaction."""
    changed = f'(datascript.core/init-db [(datascript.core/datom 1 :name "x" {app.position()})] (:schema @{app.conn}))'
    app.server.evaluate(f"(do (reset! {app.conn} {changed}) nil)")


def reset_and_go_on(app: Application) -> None:
    reset(app)
    app.transact("[]", "[]")


def rewind(app: Application) -> None:
    """Back to a state that there was, which the listener is told."""
    state = app.state_at(app.position() - 1)
    app.server.evaluate(f"(do (datascript.core/reset-conn! {app.conn} {state}) nil)")
    app.transact("[]", "[]", "[]")


def change_schema(app: Application) -> None:
    """Told to the listener as well, with a transaction that continues the last one."""
    datoms = f"(datascript.core/datoms @{app.conn} :eavt)"
    database = f"(assoc (datascript.core/init-db {datoms} {{}}) :max-tx {app.position() + 1})"
    app.server.evaluate(f"(do (datascript.core/reset-conn! {app.conn} {database}) nil)")


def commit_very_much(app: Application) -> None:
    app.transact(*[f'[{{:name "{number}"}}]' for number in range(60)])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (start_anew, "the listener was installed just now, as after a start of the application"),
        (reset, "the connection was reset to another database"),
        (reset_and_go_on, "the connection was reset to another database"),
        (rewind, "the history is another one since then"),
        (change_schema, "the schema is another one"),
        (commit_very_much, "the listener has dropped"),
    ],
)
def test_a_gap_makes_a_full_backup(
    app: Application, tmp_path: Path, change: Callable[[Application], None], why: str
) -> None:
    app.run(listener_limit=100)
    app.transact(*CHANGES[:3])
    app.run(listener_limit=100)
    change(app)
    told = app.run(listener_limit=100)
    assert kinds(app) == ["full", "incr", "full"]
    assert why in told["warnings"][-1]
    app.transact('[{:colour "red"}]', "[]")
    assert app.run(listener_limit=100)["warnings"] == []
    assert kinds(app)[-1] == "incr"
    app.restored(tmp_path / "restored")
    assert app.is_rebuilt(tmp_path / "restored")
    # The chain before is whole as well.
    app.restored(tmp_path / "before", "--id", ids(app)[1])


def test_a_history_that_begins_far_back_is_kept_anew(chain: Application, tmp_path: Path) -> None:
    """What the last backup had of the old history tells nothing of what is needed of the new one."""
    state = chain.state_at(chain.positions()[1])
    chain.run()
    chain.server.evaluate(f"(do (datascript.core/reset-conn! {chain.conn} {state}) nil)")
    chain.transact("[]")
    assert "the history is another one since then" in chain.run()["warnings"][0]
    for _unused in range(2):
        chain.transact('[{:name "after"}]', "[]")
        assert chain.run()["warnings"] == []
    chain.restored(tmp_path / "restored")
    assert chain.is_rebuilt(tmp_path / "restored")


def test_another_start_needs_the_listener_again(dbbackup: Command, tmp_path: Path) -> None:
    """A new process of the application, on another port."""
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        with nrepl_servers.nbb_logseq(tmp_path / str(number)) as server:
            (tmp_path / "port").write_text(str(server.address.port))
            app = application(server, dbbackup, "app")
            where = {"type": "nrepl", "port_file": str(tmp_path / "port"), **app.job.options}
            for install in (False, True):
                described = {"name": app.job.name, "repository": str(dbbackup.repository), **where}
                described["install_listener"] = install
                dbbackup.jobs.mkdir(exist_ok=True)
                (dbbackup.jobs / "export.json").write_text(json.dumps(described))
                if not install:
                    told = dbbackup.fails(1, "run", "export")
                    assert told.endswith("install_listener installs it there")
            warnings = dbbackup.ok("run", "export")["warnings"]
            assert kinds(app) == ["full"] * (number + 1)
    assert "the listener was installed just now, as after a start of the application" in warnings[-1]


# Money goes from account to account all the time; what was committed is acknowledged in a ledger of the application.
_WRITER = """
(let [ledger (atom []) space (create-ns '<space>)
      accounts (mapv (fn [number] {:name (str "account" number) :n 100}) (range 8))
      amount (fn [number] (:n (datascript.core/entity @<conn> [:name (str "account" number)])))
      transfer (fn []
                 (let [one (rand-int 8) other (mod (+ one 1 (rand-int 7)) 8) sum (rand-int 9)
                       report (datascript.core/transact! <conn>
                                [{:name (str "account" one) :n (- (amount one) sum)}
                                 {:name (str "account" other) :n (+ (amount other) sum)}])]
                   (swap! ledger conj (:max-tx (:db-after report)))))]
  (datascript.core/transact! <conn> accounts)
  ;; The server of nbb ends when a client is killed that it has not told everything yet.
  (js/process.on "uncaughtException" (fn [problem] (println (str problem))))
  (intern space 'ledger ledger)
  (intern space 'writer (js/setInterval transfer 1))
  nil)
"""
_SUMS = """
(let [database <rebuilt>]
  (reduce + (map :v (filter (fn [datom] (= :n (:a datom))) (datascript.core/datoms database :eavt)))))
"""


@pytest.fixture
def writer(app: Application) -> Iterator[Application]:
    """Transactions go on in the application."""
    app.server.evaluate(_WRITER.replace("<space>", app.space).replace("<conn>", app.conn))
    yield app
    app.server.evaluate(f"(do (js/clearInterval {app.space}/writer) nil)")


def settle(app: Application) -> list[int]:
    """End the writer; returns all that was acknowledged."""
    app.server.evaluate(f"(do (js/clearInterval {app.space}/writer) nil)")
    return [int(one) for one in app.server.evaluate(f"@{app.space}/ledger").strip("[]").split()]


def check_ledger(app: Application, place: Path, ledger: list[int], first: int) -> None:
    """Every acknowledged transaction after the first position is in the files once, in its order."""
    app.restored(place)
    found = [position for position, _time in lines_in(place)]
    assert found == list(range(first + 1, app.position() + 1))
    assert [one for one in ledger if one > first] == [one for one in found if one in set(ledger)]
    assert app.is_rebuilt(place)


class TestWriter:
    def test_no_transaction_is_lost_and_none_is_there_twice(self, writer: Application, tmp_path: Path) -> None:
        first = writer.run()["backup"]["source"]["position"]["stop"]
        for _unused in range(5):
            before = writer.position()
            eventually(lambda before=before: writer.position() > before + 20, "transactions go on")
            assert writer.run()["warnings"] == []
        ledger = settle(writer)
        writer.run()
        assert kinds(writer) == ["full"] + ["incr"] * 6
        check_ledger(writer, tmp_path / "restored", ledger, first)
        for position in (first, *range(first + 1, ledger[-1], (ledger[-1] - first) // 10)):
            place = tmp_path / str(position)
            assert writer.restored(place, "--position", str(position))["position"] == position
            assert writer.is_rebuilt(place, writer.state_at(position))
            assert writer.evaluated(_SUMS, place) == str(8 * 100 + 3)

    def test_killed_runs_lose_nothing(self, writer: Application, tmp_path: Path) -> None:
        """Killed at any stage, also after the log was made ready, and after the backup was published."""
        first = writer.run()["backup"]["source"]["position"]["stop"]
        begun = time.monotonic()
        writer.run()
        usual = time.monotonic() - begun
        command = writer.job.dbbackup.arguments("run", writer.job.name)
        for number in range(12):
            with process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(usual * (number + 1) / 12)
                run.kill()
        ledger = settle(writer)
        assert writer.run()["warnings"] == []
        assert set(kinds(writer)[1:]) == {"incr"}
        check_ledger(writer, tmp_path / "restored", ledger, first)


def test_a_run_holds_what_it_builds_on(chain: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs, nobody removes any of it, also who does not ask for the lock of the job."""
    options = {"type": "nrepl", "name": chain.job.name, **chain.server.options, **chain.job.options}
    job = jobs.parse({**options, "repository": str(chain.job.dbbackup.repository)})
    refused = []
    original = NreplSource.capture_after

    def capture_after(self: NreplSource, staging: Staging, prior: Manifest) -> Capture:
        for one in job.directory.backups():
            with pytest.raises(LockedError):
                job.directory.remove(one)
            refused.append(one.id)
        return original(self, staging, prior)

    monkeypatch.setattr(NreplSource, "capture_after", capture_after)
    backup.back_up(job)
    assert refused == ids(chain)[-2::-1]


def test_damage_in_the_middle(chain: Application, tmp_path: Path) -> None:
    _full, first, second, third = ids(chain)
    (path,) = (chain.job.dbbackup.repository / chain.job.name / second).glob("*.zst")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told = chain.job.dbbackup.fails(1, "restore", chain.job.name, "--dest", tmp_path / "x")
    assert (third in told, second in told, path.name in told) == (True, True, True)
    assert not (tmp_path / "x").exists()
    told = chain.job.dbbackup.fails(1, "verify", chain.job.name)
    assert f"backup {third} of job {chain.job.name} builds on what is not sound: backup {second}" in told
    (listed,) = chain.job.dbbackup.ok("list", chain.job.name)
    assert [backup["status"] for backup in listed["backups"]] == ["damaged", "damaged", "complete", "complete"]
    # What was before the damage is restored, and the next backup does not build on it.
    assert chain.restored(tmp_path / "before")["backup"]["id"] == first
    held = chain.restored(tmp_path / "before")["position"]
    assert chain.is_rebuilt(tmp_path / "before", chain.state_at(held))
    (warning,) = chain.run()["warnings"]
    assert "the listener has dropped what was committed since then" in warning
    assert kinds(chain)[-1] == "full"
    chain.restored(tmp_path / "after")
    assert chain.is_rebuilt(tmp_path / "after")


def test_damage_at_the_end_is_made_good_by_the_next_run(chain: Application, tmp_path: Path) -> None:
    """The listener still has what the last backup holds: nothing had been published on top of it."""
    *_before, second, third = ids(chain)
    (path,) = (chain.job.dbbackup.repository / chain.job.name / third).glob("*.zst")
    path.write_bytes(b"short")
    told = chain.run()
    assert (told["warnings"], told["backup"]["backup"]["prior"]) == ([], second)
    chain.restored(tmp_path / "restored")
    assert chain.is_rebuilt(tmp_path / "restored")
    for position in range(chain.position() - 2, chain.position() + 1):
        chain.restored(tmp_path / str(position), "--position", str(position))
        assert chain.is_rebuilt(tmp_path / str(position), chain.state_at(position))


def test_every_so_many_backups_there_is_a_full_one(app: Application) -> None:
    for _unused in range(7):
        app.transact("[]")
        app.run(full_every=3)
    assert kinds(app) == ["full", "incr", "incr", "full", "incr", "incr", "full"]
    app.run(full_every=1)
    assert kinds(app)[-2:] == ["full", "full"]
