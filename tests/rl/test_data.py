import json

import pytest

from rl.config import DataConfig
from rl.data import DataError, load_rows, read_jsonl, rows_fingerprint, step_indices


def test_a_malformed_row_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": \n')
    with pytest.raises(DataError, match=r"rows.jsonl:3: not valid JSON"):
        read_jsonl(path)


def test_a_row_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n[1, 2]\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2: a row is a JSON object, got list"):
        read_jsonl(path)


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="the file has no rows"):
        load_rows(DataConfig(path=str(tmp_path / "empty.jsonl")), 0)
    with pytest.raises(DataError, match="no such file"):
        load_rows(DataConfig(path=str(tmp_path / "missing.jsonl")), 0)
    with pytest.raises(DataError, match="no such file or folder"):
        load_rows(DataConfig(path=str(tmp_path / "missing")), 0)


def test_a_malformed_row_inside_a_data_set_folder_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": oops}\n')
    with pytest.raises(DataError, match=r"train.jsonl:2: not valid JSON"):
        load_rows(DataConfig(path=str(tmp_path)), 0)


def test_rows_without_a_prompt_are_refused_with_their_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(DataError, match="rows need a `prompt`, got the columns question, answer"):
        load_rows(DataConfig(path=str(path)), 0)


def test_a_folder_is_read_by_the_datasets_library(tmp_path):
    for split, count in [("train", 3), ("test", 2)]:
        rows = [{"prompt": f"{split} {i}", "ground_truth": str(i)} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["prompt"] for row in load_rows(DataConfig(path=str(tmp_path), split="test"), 0)] == ["test 0", "test 1"]


def test_a_transform_may_be_the_users_own_function(tmp_path, monkeypatch):
    (tmp_path / "my_rows.py").write_text("def double(row, times=2):\n    return [{'prompt': row['text']}] * times\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "hello"}\n')
    config = DataConfig(path=str(path), transform="my_rows:double", kwargs={"times": 3})
    assert load_rows(config, 0) == [{"prompt": "hello"}] * 3


@pytest.mark.parametrize("name", ["nowhere:function", "json:nothing", "unknown"])
def test_an_unknown_transform_is_refused(tmp_path, name):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hello"}\n')
    with pytest.raises(DataError, match=r"data\.transform"):
        load_rows(DataConfig(path=str(path), transform=name), 0)


def test_max_rows_takes_a_seeded_sample():
    config = DataConfig(path="arithmetic", max_rows=10)
    assert load_rows(config, 1) == load_rows(config, 1)
    assert load_rows(config, 1) != load_rows(config, 2)
    assert len(load_rows(config, 1)) == 10


def test_every_epoch_visits_every_row_once_in_a_new_order():
    visited = [index for step in range(6) for index in step_indices(9, 3, seed=0, step=step)]
    assert sorted(visited[:9]) == sorted(visited[9:]) == list(range(9))
    assert visited[:9] != visited[9:]


def test_a_step_may_span_epochs_and_depends_on_nothing_but_its_number():
    flat = [index for step in range(5) for index in step_indices(7, 4, seed=3, step=step)]
    assert sorted(flat[:7]) == sorted(flat[7:14]) == list(range(7))
    assert step_indices(7, 4, seed=3, step=2) == flat[8:12]
    assert len(step_indices(2, 5, seed=0, step=0)) == 5


def test_the_fingerprint_sees_a_changed_row():
    rows = load_rows(DataConfig(path="arithmetic", max_rows=10), 0)
    changed = [*rows[:-1], {**rows[-1], "ground_truth": "0"}]
    assert rows_fingerprint(rows) == rows_fingerprint(list(rows)) != rows_fingerprint(changed)
