"""The Optuna study beside a search: study.journal, SQLite, a real PostgreSQL server, Optuna's gRPC proxy."""

import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hpo.errors import SearchError
from hpo.journal import Journal
from hpo.mirror import STUDY_NAMES, Follower, MirrorProcess, check_storage, frozen_trial
from hpo.space import Space
from hpo.storage import Storage, shown
from tests.python.study_cases import append, describe, make_config, make_record

CONFIG = make_config()
NAMES = {1: "study-step1", 2: "study-step2"}
optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def out(tmp_path):
    """A study with the records 0 to 7, by two workers and out of order, and one retraining."""
    out = tmp_path / "study"
    describe(out, CONFIG)
    append(out, "node1-7-a-000", *(make_record(CONFIG, t) for t in (1, 0, 4, 7)))
    append(out, "node2-9-b-000", *(make_record(CONFIG, t) for t in (5, 3, 6)), make_record(CONFIG, 2, error="diverged"))
    append(out, "node2-9-b-000", make_record(CONFIG, 4, step=2))
    return out


@pytest.fixture
def follow(out):
    """Function that follows the study into a place once, and returns what it warned of."""

    def follow(place, rounds=1):
        warnings = []
        follower = Follower(out, place, Space(CONFIG), warnings.append, retry_s=(0.0,))
        assert [follower.bring_up_to_date() for _ in range(rounds)][-1], warnings
        return warnings

    return follow


def journal(out):
    return Journal(out / "study.journal", STUDY_NAMES)


def load(out, step=1):
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.load_study(study_name=STUDY_NAMES[step], storage=storage).trials


def stored(url, step=1):
    """Trials of a database, every row of them: a study's own list would hide two of one number."""
    storage = RDBStorage(url)
    return storage.get_all_trials(storage.get_study_id_from_name(NAMES[step]))


def numbers(trials):
    return [t.user_attrs["trial"] for t in trials]


# -- study.journal ---------------------------------------------------------------------------------------------------


def test_trials_of_step_1_keep_their_number_whichever_order_they_come_in(out, follow):
    follow(journal(out))
    trials = load(out)
    assert [t.number for t in trials] == numbers(trials) == list(range(8))
    assert [t.state.name for t in trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 5
    assert trials[4].intermediate_values == dict(enumerate(make_record(CONFIG, 4)["curve"]["validation_mse"], 1))
    assert numbers(load(out, 2)) == [4]


def test_a_trial_waits_for_those_before_it_and_a_member_that_joins_late_is_followed(out):
    follower = Follower(out, journal(out), Space(CONFIG), print)
    follower.bring_up_to_date()
    append(out, "node1-7-a-000", make_record(CONFIG, 9))
    assert follower.bring_up_to_date()
    assert len(load(out)) == 8 and follower.num_missing == 1
    append(out, "node3-1-c-000", make_record(CONFIG, 8))
    follower.bring_up_to_date()
    assert numbers(load(out)) == list(range(10)) and follower.num_missing == 0


def test_a_trial_that_two_workers_recorded_is_there_once(out, follow):
    append(out, "node3-1-c-000", make_record(CONFIG, 5, seconds=9.0))
    follow(journal(out))
    follow(journal(out))
    assert numbers(load(out)) == list(range(8))


def test_notes_of_other_programs_in_the_journal_are_kept(out, follow):
    place = journal(out)
    follower = Follower(out, place, Space(CONFIG), print, retry_s=(0.0,))
    follower.bring_up_to_date()
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    optuna.load_study(study_name="step1", storage=storage).set_user_attr("note", "by hand")
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    assert not follower.bring_up_to_date() and follower.bring_up_to_date()  # opens the changed file again
    assert numbers(load(out)) == list(range(9))
    assert optuna.load_study(study_name="step1", storage=storage).user_attrs["note"] == "by hand"


def test_a_journal_with_trials_out_of_order_is_made_anew(out, follow):
    """As two leaders at once might leave it."""
    follow(journal(out))
    path = out / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    assert numbers(load(out)) != list(range(8))
    follow(journal(out))
    assert numbers(load(out)) == list(range(8))


# -- storages of the user --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
def test_a_batch_in_a_database_is_what_optuna_itself_would_write(out, follow, tmp_path, step):
    url = f"sqlite:///{tmp_path}/ours.db"
    follow(Storage(url, NAMES, "identity"))
    theirs = optuna.create_study(storage=RDBStorage(f"sqlite:///{tmp_path}/theirs.db"))
    records = [make_record(CONFIG, t, error="diverged" if t == 2 else None) for t in range(8)]
    for record in records if step == 1 else [make_record(CONFIG, 4, step=2)]:
        theirs.add_trial(frozen_trial(record, Space(CONFIG)))
    found = stored(url, step)
    assert len(found) == len(theirs.trials) == (8 if step == 1 else 1)
    for a, b in zip(found, theirs.trials, strict=True):
        for field in ("number", "state", "values", "params", "distributions", "intermediate_values", "user_attrs"):
            assert getattr(a, field) == getattr(b, field), field
        assert (a.datetime_start, a.datetime_complete) == (b.datetime_start, b.datetime_complete)
        assert a.system_attrs == b.system_attrs == {}


def test_a_storage_is_gone_on_with_and_no_trial_is_there_twice(out, follow, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    follow(Storage(url, NAMES, "identity"))
    late = Follower(out, Storage(url, NAMES, "identity"), Space(CONFIG), print, retry_s=(0.0,))
    late.bring_up_to_date()
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    follow(Storage(url, NAMES, "identity"))  # another leader has written meanwhile
    append(out, "node1-7-a-000", make_record(CONFIG, 9))
    while not late.bring_up_to_date():
        pass
    assert numbers(stored(url)) == list(range(10)) and numbers(stored(url, 2)) == [4]


def test_two_searches_of_one_name_share_a_storage_without_mixing(out, follow, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    follow(Storage(url, NAMES, "first"))
    second = Storage(url, NAMES, "second")
    follow(second)
    assert second.names[1] == "study-step1-second"
    follow(Storage(url, NAMES, "second"))
    studies = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(url)}
    assert studies == {"study-step1": 8, "study-step2": 1, "study-step1-second": 8, "study-step2-second": 1}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("study.db", "unknown kind"),
        ("oracle://me@host/x", "expected sqlite:///file.db"),
        ("grpc://host", "expected grpc://host:port"),
        ("mysql+mysqldb://me:secret@host/x", "install mysqlclient"),
    ],
)
def test_a_storage_that_cannot_work_is_refused_before_the_search(url, told):
    with pytest.raises(SearchError, match=told) as error:
        check_storage(url)
    assert "secret" not in str(error.value)
    check_storage("sqlite:///x.db")


def test_a_password_is_never_shown():
    assert shown("postgresql://me:se@cret@host:1/db") == "postgresql://me@host:1/db"
    assert shown("sqlite:///a.db") == "sqlite:///a.db"


# -- a real PostgreSQL -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Postgres:
    """A server of our own, on a socket in its folder."""

    bin: Path
    folder: Path
    options: dict

    def call(self, program, *arguments):
        subprocess.run([self.bin / program, *arguments], check=True, capture_output=True, **self.options)

    def start(self):
        told = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self.call(
            "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-t", "300", "-o", told, "start"
        )

    def stop(self):
        self.call("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

    def database(self, name):
        self.call("createdb", "-h", self.folder, "-U", "me", name)
        return f"postgresql+psycopg://me@/{name}?host={self.folder}"


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg", reason="needs psycopg; it is in the test extra")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = shutil.which("initdb") or (found[-1] if found else None)
    if program is None:
        pytest.skip("needs a PostgreSQL server; Debian: apt install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path is short
    options = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    server = Postgres(Path(program).resolve().parent, folder, options)
    server.call("initdb", "-D", folder / "data", "-A", "trust", "-U", "me", "--no-sync")
    server.start()
    yield server
    with contextlib.suppress(subprocess.CalledProcessError):
        server.stop()
    shutil.rmtree(folder)


def test_a_database_server_that_goes_away_and_comes_back_has_every_trial_once(out, postgres):
    url = postgres.database("lost")
    warnings = []
    follower = Follower(out, Storage(url, NAMES, "identity"), Space(CONFIG), warnings.append, retry_s=(0.0,))
    assert follower.bring_up_to_date() and warnings == []
    postgres.stop()
    try:
        append(out, "node1-7-a-000", make_record(CONFIG, 8))
        for _ in range(4):
            assert not follower.bring_up_to_date()
        append(out, "node1-7-a-000", make_record(CONFIG, 9))
    finally:
        postgres.start()
    assert follower.bring_up_to_date()
    assert len(warnings) == 2 and "cannot be reached" in warnings[0] and "reached again" in warnings[1]
    assert numbers(stored(url)) == list(range(10))
    assert [t.params for t in stored(url)] == [make_record(CONFIG, t)["params"] for t in range(10)]


def test_the_process_fills_a_database_and_ends_when_told(out, postgres):
    url = postgres.database("process")
    mirror = MirrorProcess(out, CONFIG, storage=url)
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    mirror.finish()
    assert numbers(stored(url)) == list(range(9)) and not (out / "study.journal").exists()


# -- Optuna's gRPC proxy ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def proxy(database, port):
    code = (
        "import optuna.storages as s; "
        f"s.run_grpc_proxy_server(s.RDBStorage('sqlite:///{database}'), host='127.0.0.1', port={port})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_trials_go_through_optunas_grpc_proxy_and_catch_up_after_its_restart(out, tmp_path):
    pytest.importorskip("grpc", reason="needs grpcio; it is in the test extra")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database, warnings = tmp_path / "proxied.db", []
    place = Storage(f"grpc://127.0.0.1:{port}", NAMES, "identity")
    follower = Follower(out, place, Space(CONFIG), warnings.append, retry_s=(0.0,))
    with proxy(database, port) as server:
        while not follower.bring_up_to_date():
            assert server.poll() is None, "the proxy has ended"
            time.sleep(0.1)
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    assert not follower.bring_up_to_date()
    with proxy(database, port) as server:
        while not follower.bring_up_to_date():
            assert server.poll() is None, "the proxy has ended"
            time.sleep(0.1)
    assert numbers(stored(f"sqlite:///{database}")) == list(range(9))


# -- the process -----------------------------------------------------------------------------------------------------


def test_the_process_keeps_the_journal_and_a_finished_study_needs_none(out, monkeypatch):
    mirror = MirrorProcess(out, CONFIG)
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    mirror.finish()
    assert numbers(load(out)) == list(range(9))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started for nothing"))
    MirrorProcess(out, CONFIG).finish()


def test_signals_to_the_process_while_it_starts_wait_and_are_ignored(out, capfd):
    mirror = MirrorProcess(out, CONFIG)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        mirror._process.send_signal(number)
    append(out, "node1-7-a-000", make_record(CONFIG, 8))
    mirror.finish()
    assert numbers(load(out)) == list(range(9)) and capfd.readouterr().err == ""


def test_a_storage_that_never_answers_ends_in_a_warning_without_the_password(out, capfd):
    mirror = MirrorProcess(out, CONFIG, storage="postgresql+psycopg://me:secret@127.0.0.1:1/x")
    command = Path(f"/proc/{mirror._process.pid}/cmdline").read_bytes()
    mirror.finish()
    told = capfd.readouterr().err
    assert "postgresql+psycopg://me@127.0.0.1:1/x: the Optuna study cannot be reached" in told
    assert "9 finished trials are not in it; the same command adds them" in told
    assert "secret" not in told and b"secret" not in command


def test_the_process_ends_with_its_leader(out):
    code = (
        "from pathlib import Path; from hpo.mirror import MirrorProcess; from hpo.config import Config; import json\n"
        f"out = Path({str(out)!r}); config = json.loads((out / 'study.json').read_text())['config']\n"
        "m = MirrorProcess(out, Config.from_dict(config)); print(m._process.pid, flush=True); input()"
    )
    root = Path(__file__).parents[2]
    leader = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdin=-1, stdout=-1, text=True)
    pid = int(leader.stdout.readline())
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    deadline = time.monotonic() + 120.0
    while _alive(pid):
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- optuna-dashboard ------------------------------------------------------------------------------------------------


def test_optuna_dashboard_opens_the_study(out, follow):
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard; it is in the test extra")
    follow(journal(out))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [program, out / "study.journal", "--port", str(port), "--host", "127.0.0.1"]
    dashboard = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fetch(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}") as answer:
            return json.load(answer)

    try:
        while True:
            try:
                listed = fetch("studies")["study_summaries"]
                break
            except OSError:
                assert dashboard.poll() is None, "optuna-dashboard has ended"
                time.sleep(0.1)
        ids = {s["study_name"]: s["study_id"] for s in listed}
        assert set(ids) == {"step1", "step2"}
        trials = fetch(f"studies/{ids['step1']}?after=0")["trials"]
        assert [t["number"] for t in trials] == list(range(8))
        assert trials[0]["values"] == [make_record(CONFIG, 0)["validation_mse"]]
    finally:
        dashboard.kill()
        dashboard.wait()
