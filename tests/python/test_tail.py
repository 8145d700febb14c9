"""Record files followed as they grow: everything once, only what is new, nothing that is not whole."""

import pytest

from emulator.records import RecordWriter
from hpo.tail import FolderTail
from tests.python.study_cases import append, make_config, make_record

CONFIG = make_config()


@pytest.fixture
def out(tmp_path):
    append(tmp_path, "a", *(make_record(CONFIG, t) for t in (3, 0)))
    append(tmp_path, "b", make_record(CONFIG, 1))
    return tmp_path


def polled(tail):
    return [r["trial"] for r in tail.poll()]


def test_each_record_comes_once_from_files_that_grow_and_files_that_are_new(out):
    tail = FolderTail(out / "step1")
    assert polled(tail) == [3, 0, 1] and polled(tail) == []
    append(out, "a", make_record(CONFIG, 4))
    append(out, "c", make_record(CONFIG, 5), make_record(CONFIG, 1, seconds=9.0))  # 1 was finished twice
    assert polled(tail) == [4, 5] and tail.trials == {0, 1, 3, 4, 5}
    assert polled(FolderTail(out / "nothing")) == []


def test_only_new_bytes_are_read(out):
    """What lies before the place reached is overwritten, and nobody notices."""
    tail, path = FolderTail(out / "step1"), out / "step1/worker-b.jsonl"
    tail.poll()
    append(out, "b", make_record(CONFIG, 6))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(bytes(len(first)) + second)
    assert polled(tail) == [6] and tail.damaged == []


def test_curves_can_be_left_out_altogether_or_trial_by_trial(out):
    whole = {t: make_record(CONFIG, t)["curve"] for t in (0, 1, 3)}
    assert {r["trial"]: r["curve"] for r in FolderTail(out / "step1").poll()} == whole
    assert {r["trial"]: r["curve"] for r in FolderTail(out / "step1", curves=False).poll()} == {t: {} for t in whole}
    some = FolderTail(out / "step1", curves=lambda trial: trial == 1).poll()
    assert {r["trial"]: r["curve"] for r in some} == {0: {}, 1: whole[1], 3: {}}


def test_a_curve_in_an_error_message_cuts_nothing(out):
    text = 'diverged, "curve":{"x":[1]} said'
    append(out, "d", make_record(CONFIG, 7, error=text))
    [record] = [r for r in FolderTail(out / "step1", curves=False).poll() if r["trial"] == 7]
    assert record["error"] == text and record["curve"] == {}


def test_a_line_is_waited_for_until_it_is_whole(out):
    tail, path = FolderTail(out / "step1"), out / "step1/worker-a.jsonl"
    tail.poll()
    append(out, "e", make_record(CONFIG, 8))
    line = (out / "step1/worker-e.jsonl").read_bytes()
    (out / "step1/worker-e.jsonl").unlink()
    for k in (10, len(line) - 1):
        with open(path, "ab") as stream:
            stream.write(line[:k])
        assert polled(tail) == []
        with RecordWriter(path):  # the worker that goes on with the file cuts a torn tail off
            pass
    with open(path, "ab") as stream:
        stream.write(line)
    assert polled(tail) == [8] and tail.damaged == []


def test_a_damaged_line_is_skipped_and_named_once_it_has_had_time_to_mend(out):
    path = out / "step1/worker-a.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(bytes(len(lines[0]) - 1) + b"\n" + lines[1])
    patient, hasty = FolderTail(out / "step1"), FolderTail(out / "step1", patience_s=0.0)
    assert polled(patient) == [1] and patient.damaged == []
    path.write_bytes(b"".join(lines))  # what another host had not yet written was read as zeros
    assert polled(patient) == [3, 0]
    changed = lines[0].replace(b'"epochs":6', b'"epochs":7')  # still JSON, no longer what was written
    assert changed != lines[0]
    path.write_bytes(changed + lines[1])
    assert polled(hasty) == [0, 1]
    assert hasty.damaged == [f"{path}: line 1 is damaged; remove that line, and its trial is run again"]


def test_a_file_that_was_cut_by_hand_gives_nothing_twice(out):
    tail, path = FolderTail(out / "step1"), out / "step1/worker-a.jsonl"
    tail.poll()
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert polled(tail) == []
    append(out, "a", make_record(CONFIG, 9), make_record(CONFIG, 2))
    assert polled(tail) == [9, 2]
