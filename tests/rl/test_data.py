import bz2
import gzip
import json
import lzma
import os
import threading

import datasets
import pytest

from redraft.rl.config.sections import DataConfig
from redraft.rl.data.files import read_jsonl
from redraft.rl.data.load import DataError, batch_indices, load_rows, rows_fingerprint


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": oops}\n', r"train.jsonl:2: not valid JSON"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', r"train.jsonl:2: not valid UTF-8: 'utf-8' codec can't decode"),
        (b"", r"train.jsonl: the file has no rows"),
    ],
)
def test_an_unreadable_file_inside_a_data_set_folder_is_named(tmp_path, content, message):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_rows(DataConfig(path=str(tmp_path)), 0)


def test_text_in_another_encoding_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "a"}\n\n{"prompt": "Größe"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"rows.jsonl:3: not valid UTF-8"):
        read_jsonl(path)


def test_read_jsonl_keeps_the_line_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"prompt": "a"}\n\n{"prompt": "ä"}\n', encoding="utf-8")
    assert read_jsonl(path) == [(2, {"prompt": "a"}), (4, {"prompt": "ä"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '[{"prompt": "1+2=", "ground_truth": 3}, {"prompt": "a, b", "ground_truth": 4}]'),
        ("rows.csv", 'prompt,ground_truth\n1+2=,3\n"a, b",4\n'),
    ],
)
def test_a_local_file_is_read_by_the_datasets_library(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    expected = [{"prompt": "1+2=", "ground_truth": 3}, {"prompt": "a, b", "ground_truth": 4}]
    assert load_rows(DataConfig(path=str(path)), 0) == expected


PACKERS = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(
    ("ending", "content"),
    [("jsonl", '{"prompt": "a"}\n\n{"prompt": "ä"}\n'), ("ndjson", '{"prompt": "a"}\n{"prompt": "ä"}'),
     ("json", '[{"prompt": "a"}, {"prompt": "ä"}]'), ("csv", "prompt\na\nä\n"), ("tsv", "prompt\na\nä\n")],
)  # fmt: skip
def test_a_packed_file_is_read_as_if_it_were_not(tmp_path, ending, content, packing):
    path = tmp_path / f"rows.{ending}.{packing}"
    with PACKERS[packing](path, "wt", encoding="utf-8") as file:
        file.write(content)
    assert load_rows(DataConfig(path=str(path)), 0) == [{"prompt": "a"}, {"prompt": "ä"}]


def test_packed_rows_are_named_by_line_and_seen_under_any_name(tmp_path):
    path = tmp_path / "ROWS.JSONL"
    with gzip.open(path, "wt") as file:
        file.write('{"prompt": "a"}\n{"prompt"\n')
    with pytest.raises(DataError, match=r"ROWS.JSONL:2: not valid JSON"):
        load_rows(DataConfig(path=str(path)), 0)


def test_a_packed_file_that_was_cut_off_is_named(tmp_path):
    for packing, pack in PACKERS.items():
        path = tmp_path / f"rows.jsonl.{packing}"
        with pack(path, "wt") as file:
            file.write('{"prompt": "some words"}\n' * 1000)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match=rf"rows.jsonl.{packing}: damaged, or cut off"):
            load_rows(DataConfig(path=str(path)), 0)
        other = path.rename(tmp_path / f"rows.json.{packing}")
        with pytest.raises(DataError, match=rf"rows.json.{packing}: damaged, or cut off"):
            load_rows(DataConfig(path=str(other)), 0)


def test_zstandard_is_refused_by_its_name_or_its_first_bytes(tmp_path):
    for name, message in [
        ("rows.jsonl.zst", "files that can be read end in"),
        ("rows.jsonl", "packed with zstd; unpack"),
    ]:
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd rest")
        with pytest.raises(DataError, match=message):
            load_rows(DataConfig(path=str(tmp_path / name)), 0)


@pytest.fixture
def no_hub(monkeypatch):
    """Nothing may be looked up."""

    def refuse(*arguments, **options):
        raise AssertionError(f"looked up {arguments}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.parquet.gz", "rows.zip", "rows.jsonl.lz4", "rows.gz"])
def test_a_local_file_of_another_kind_is_refused_with_the_endings_that_can_be_read(tmp_path, monkeypatch, no_hub, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("something")
    with pytest.raises(DataError, match=rf"{name}: files that can be read end in .jsonl, .*\.gz"):
        load_rows(DataConfig(path=name), 0)


@pytest.mark.parametrize(
    "name",
    ["rows.jsonl", "rows.jsonl.gz", "a/rows.csv", "rows.tsv.xz", "rows.txt", "rows.zip", "rows.gz", "./rows", "../rows",
     "/rows", "~/rows", "a/b/rows", "rows/", "a b", "ROWS.JSON"],
)  # fmt: skip
def test_what_is_written_like_a_file_is_never_looked_up(tmp_path, monkeypatch, no_hub, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load_rows(DataConfig(path=name), 0)


def test_a_misspelt_generator_is_not_looked_up(no_hub):
    with pytest.raises(DataError, match="arithmetics: did you mean the generated data set 'arithmetic'"):
        load_rows(DataConfig(path="arithmetics"), 0)


@pytest.mark.parametrize("name", ["gsm8k", "openai/gsm8k", "a.b/c-d_e"])
def test_any_other_name_is_one_of_the_hub(monkeypatch, name):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **_: asked.append(names) or [{"prompt": "a"}])
    assert load_rows(DataConfig(path=name, name="main"), 0) == [{"prompt": "a"}]
    assert asked == [(name, "main")]


def test_a_byte_order_mark_and_line_ends_of_other_systems_do_not_matter(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n')
    assert read_jsonl(path) == [(1, {"prompt": "a"}), (3, {"prompt": "b"})]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000], ids=["digits", "depth"])
def test_a_value_that_python_cannot_read_is_named_by_line(tmp_path, value):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": {value}}}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: not valid JSON"):
        read_jsonl(path)


def test_a_pipe_of_rows_is_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('{"prompt": "a"}\n'))
    writer.start()
    assert read_jsonl(pipe) == [(1, {"prompt": "a"})]
    writer.join()


def test_arguments_that_nothing_takes_say_how_to_empty_them(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(DataError, match=r"nothing takes max_a .*empty them with data.kwargs=\{\}"):
        load_rows(DataConfig(path=str(tmp_path / "rows.jsonl"), kwargs={"max_a": 9}), 0)


def test_a_parquet_file_is_read_too(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"prompt": "1+2="}]).to_parquet(path)
    assert load_rows(DataConfig(path=str(path)), 0) == [{"prompt": "1+2="}]


@pytest.mark.parametrize(
    ("name", "message"), [("rows.json", "a file has no rows"), ("rows.csv", "No columns to parse from file")]
)
def test_an_empty_local_file_is_named(tmp_path, name, message):
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=rf"{name} \(train\): cannot load the data set: {message}$"):
        load_rows(DataConfig(path=str(tmp_path / name)), 0)
    with pytest.raises(DataError, match="no such file or folder"):
        load_rows(DataConfig(path=f"nowhere_{name}"), 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": "b"}, "rows need a `prompt`, got the columns question, answer"),
        ({"prompt": 5}, "`prompt` must be text or a list of messages .*, got '5' \\(int\\)"),
        ({"prompt": None}, "got 'None' \\(NoneType\\)"),
        ({"prompt": []}, "got '\\[\\]' \\(list\\)"),
        ({"prompt": [{"content": "no role"}]}, "must be text or a list of messages"),
    ],
)
def test_every_row_needs_a_usable_prompt_and_is_named_by_file_and_line(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"rows.jsonl:3: .*{message}"):
        load_rows(DataConfig(path=str(path)), 0)


def test_rows_of_other_sources_are_named_by_split_and_number(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,x\na,1\n,2\n")
    with pytest.raises(DataError, match=r"rows.csv \(train\): row 2: `prompt` must be text"):
        load_rows(DataConfig(path=str(tmp_path / "rows.csv")), 0)


def test_chat_messages_are_prompts(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "hello"}]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert load_rows(DataConfig(path=str(tmp_path / "rows.jsonl")), 0) == rows


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "arithmetic"}, "of arithmetic: .*'max_x'; valid keys: max_a, max_b, careless, rows"),
        ({"path": "{rows}", "transform": "gsm8k_calculator"}, "gsm8k_calculator: .*'max_x'; valid keys: max_length"),
        ({"path": "{rows}"}, "nothing takes max_x without a transform"),
    ],
)
def test_wrong_arguments_are_refused_with_the_valid_ones(tmp_path, settings, message):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "<<1+1=2>>"}\n')
    settings = {**settings, "path": settings["path"].format(rows=tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match=rf"data\.kwargs.*{message}"):
        load_rows(DataConfig(**settings, kwargs={"max_x": 3}), 0)


def test_a_transform_must_return_rows(tmp_path, monkeypatch):
    (tmp_path / "my_wrong_rows.py").write_text("def one(row):\n    return row\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rows.jsonl").write_text('\n{"prompt": "hello"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2: the transform my_wrong_rows:one must return a list of rows"):
        load_rows(DataConfig(path=str(tmp_path / "rows.jsonl"), transform="my_wrong_rows:one"), 0)


@pytest.mark.parametrize("name", ["nowhere:function", "json:nothing", "json:__name__", "unknown"])
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
    visited = [index for step in range(6) for index in batch_indices(9, 3, seed=0, step=step)]
    assert sorted(visited[:9]) == sorted(visited[9:]) == list(range(9))
    assert visited[:9] != visited[9:]


def test_a_step_may_span_epochs_and_depends_on_nothing_but_its_number():
    flat = [index for step in range(5) for index in batch_indices(7, 4, seed=3, step=step)]
    assert sorted(flat[:7]) == sorted(flat[7:14]) == list(range(7))
    assert batch_indices(7, 4, seed=3, step=2) == flat[8:12]
    assert len(batch_indices(2, 5, seed=0, step=0)) == 5


def test_the_fingerprint_sees_a_changed_row():
    rows = load_rows(DataConfig(path="arithmetic", max_rows=10), 0)
    changed = [*rows[:-1], {**rows[-1], "ground_truth": "0"}]
    assert rows_fingerprint(rows) == rows_fingerprint(list(rows)) != rows_fingerprint(changed)


def test_half_characters_in_a_json_file_are_named_although_the_library_drops_them(tmp_path):
    path = tmp_path / "rows.json"
    for half in (r"x\ud83d", r"\uDE00", r"\\\ud83d.", r"\ude00\ud83d"):
        path.write_text('[{"prompt": "a"},\n {"prompt": "HALF"}]'.replace("HALF", half))
        with pytest.raises(DataError, match=r"rows.json:2: \\u[dD]\w{3} is half of a surrogate pair"):
            load_rows(DataConfig(path=str(path)), 0)
    path.write_text(r'[{"prompt": "\ud83d\ude00 \\ud83d \u00e9"}]')
    assert load_rows(DataConfig(path=str(path)), 0) == [
        {"prompt": "\N{GRINNING FACE} \\ud83d \N{LATIN SMALL LETTER E WITH ACUTE}"}
    ]
