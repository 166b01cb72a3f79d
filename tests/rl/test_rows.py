"""What a row must be before any policy reads it."""

import json
import pickle

import pytest

from redraft.rl.config.sections import DataConfig
from redraft.rl.data.load import DataError, load_rows
from redraft.rl.data.rows import PlacedRow, check_row, place_of

USER = {"role": "user", "content": "hello"}


def loaded(folder, *rows, **settings):
    path = folder / "rows.jsonl"
    path.write_text('{"prompt": "fine", "ground_truth": "ä 😀"}\n\n' + "".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(DataConfig(path=str(path), **settings), 0)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "x\ud800"}, "prompt"),
        ({"prompt": "\udc00x"}, "prompt"),
        ({"prompt": [{"role": "user", "content": "a \udfff b"}]}, "prompt"),
        ({"prompt": [USER, {"role": "assistant", "content": "ab", "name": "\ud83d"}]}, "prompt"),
        ({"prompt": "a", "completion": "b\ud83d"}, "completion"),
        ({"prompt": "a", "ground_truth": "\ud83d\ud83d"}, "ground_truth"),
        ({"prompt": "a", "info": {"tests": ["fine", {"out\udc00": 1}]}}, "info"),
    ],
)
def test_half_a_surrogate_pair_is_named_by_file_line_and_column(tmp_path, row, column):
    with pytest.raises(DataError, match=rf"rows.jsonl:3: `{column}`: character \d .*half of a surrogate pair") as error:
        loaded(tmp_path, row)
    str(error.value).encode()


def test_a_whole_pair_is_a_character(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "\\ud83d\\ude00"}\n')
    assert load_rows(DataConfig(path=str(tmp_path / "rows.jsonl")), 0) == [{"prompt": "😀"}]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, r"`prompt` must be text or a list of messages .* got 'None' \(NoneType\)"),
        (7, r"got '7' \(int\)"),
        ([], "must be text or a list of messages"),
        (["a"], "must be text or a list of messages"),
        ([[USER]], "must be text or a list of messages"),
        ({"role": "user", "content": "a"}, r"\(dict\)"),
        ([{"role": "user"}], "the content of message 1 must be text, there is none"),
        ([USER, {"role": "user", "content": None}], r"the content of message 2 must be text, got None \(NoneType\)"),
        ([{"role": "user", "content": 5}], r"the content of message 1 must be text, got 5 \(int\)"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], r"\(list\); join the texts of its parts"),
        ([{"role": None, "content": "a"}], "the role of message 1 must be text, such as user, got None"),
        ([{"role": "", "content": "a"}], "the role of message 1 must be text"),
        ([{"role": "system", "content": "a"}], "system messages only: there is nothing to answer; add a user message"),
    ],
)
def test_a_prompt_that_is_none_is_named_by_file_and_line(tmp_path, prompt, message):
    with pytest.raises(DataError, match=rf"rows.jsonl:3: .*{message}"):
        loaded(tmp_path, {"prompt": prompt})


def test_a_message_that_calls_tools_needs_no_content():
    calls = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    check_row({"prompt": [USER, calls, {"role": "tool", "content": "5"}]})


def test_rows_remember_their_place_through_samples_and_transforms(tmp_path, monkeypatch):
    rows = loaded(tmp_path, *({"prompt": str(number)} for number in range(20)), max_rows=7)
    assert [place_of(row, "x", 0) for row in rows] == [
        f"{tmp_path}/rows.jsonl:{int(row['prompt']) + 3}" for row in rows
    ]
    (tmp_path / "twice_rows.py").write_text("def twice(row):\n    return [row, {'prompt': row['prompt'] * 2}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = loaded(tmp_path, {"prompt": "7"}, transform="twice_rows:twice")
    assert [place_of(row, "x", 0).rpartition(":")[2] for row in made] == ["1", "1", "3", "3"]
    copy = pickle.loads(pickle.dumps(made[-1]))
    assert (copy, place_of(copy, "x", 0)) == ({"prompt": "77"}, place_of(made[-1], "x", 0))


def test_a_row_without_a_place_is_called_by_number_and_text():
    assert place_of({"prompt": "abc"}, "mine (train)", 4) == "mine (train): row 4 ('abc')"
    assert place_of(PlacedRow({"prompt": "abc"}, "f:4"), "mine (train)", 1) == "f:4"
