"""Append-only record files."""

import pytest

from emulator.records import RecordWriter, read_folder, read_records


def write(path, *records):
    with RecordWriter(path) as writer:
        for record in records:
            writer.append(record)


def test_records_come_back_in_order(tmp_path):
    write(tmp_path / "r", {"trial": 1, "error": 0.1}, {"trial": 2})
    assert list(read_records(tmp_path / "r")) == [{"trial": 1, "error": 0.1}, {"trial": 2}]


def test_a_file_cut_at_any_byte_gives_the_whole_records_before_it(tmp_path):
    path = tmp_path / "r"
    write(path, {"trial": 1, "text": "first"}, {"trial": 2, "text": "second"})
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        assert [r["trial"] for r in read_records(path)] == [1] * (cut >= first)


def test_writing_after_a_torn_tail_loses_only_the_torn_record(tmp_path):
    path = tmp_path / "r"
    write(path, {"trial": 1}, {"trial": 2})
    path.write_bytes(path.read_bytes()[:-3])
    write(path, {"trial": 3})
    assert [r["trial"] for r in read_records(path)] == [1, 3]


def test_damage_inside_a_file_is_reported_with_its_line(tmp_path):
    path = tmp_path / "r"
    write(path, {"trial": 1}, {"trial": 2}, {"trial": 3})
    path.write_bytes(path.read_bytes().replace(b'"trial":2', b'"trial":7'))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        list(read_records(path))


def test_a_trial_recorded_twice_counts_once(tmp_path):
    write(tmp_path / "worker-0.jsonl", {"trial": 5, "error": 1.0})
    write(tmp_path / "worker-1.jsonl", {"trial": 5, "error": 2.0}, {"trial": 2})
    assert [(r["trial"], r.get("error")) for r in read_folder(tmp_path)] == [(2, None), (5, 1.0)]


def test_nan_is_not_written(tmp_path):
    with RecordWriter(tmp_path / "r") as writer, pytest.raises(ValueError):
        writer.append({"error": float("nan")})


def test_of_two_records_of_a_trial_the_one_finished_first_counts(tmp_path):
    write(tmp_path / "worker-a.jsonl", {"trial": 1, "finished": "2026-01-02", "by": "a"}, {"trial": 2, "finished": "1"})
    write(tmp_path / "worker-b.jsonl", {"trial": 1, "finished": "2026-01-01", "by": "b"})
    assert [r.get("by") for r in read_folder(tmp_path)] == ["b", None]


def test_reading_without_curves_leaves_everything_else_as_it_is(tmp_path):
    tricky = {
        "trial": 1,
        "error": 'a ,"curve":{ "in" a text }',
        "curve": {"mse": [0.1, 2e-7], "b": []},
        "z": {"k": "}"},
    }
    write(tmp_path / "worker-a.jsonl", tricky, {"trial": 2}, {"trial": 3, "curve": {}})
    whole, fast = (read_folder(tmp_path, curves=c) for c in (True, False))
    assert fast == [r | ({"curve": {}} if "curve" in r else {}) for r in whole] and whole[0] == tricky


def test_the_disk_is_waited_for_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    with RecordWriter(tmp_path / "r", sync_seconds=1e6) as writer:
        for k in range(100):
            writer.append({"trial": k})
        assert not synced and len(list(read_records(tmp_path / "r"))) == 100, "the system has it at once"
        assert writer.sync_if_due() > 0.0
        writer.sync()
        writer.sync()
        assert len(synced) == 1 and writer.sync_if_due() is None
        writer.append({"trial": 100})
    assert len(synced) == 2
    with RecordWriter(tmp_path / "r") as writer:
        writer.append({"trial": 101})
        assert len(synced) == 3
