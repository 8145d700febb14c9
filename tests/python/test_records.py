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
