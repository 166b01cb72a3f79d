import pytest

from redraft.rl.config.sections import DataConfig
from redraft.rl.data.files import read_jsonl
from redraft.rl.data.load import load_rows
from redraft.rl.data.tasks import add_without_carry, arithmetic, gsm8k, gsm8k_calculator, math, mbpp, rename


def test_arithmetic_splits_are_disjoint_and_complete():
    train, test = arithmetic("train", max_a=19, max_b=9), arithmetic("test", max_a=19, max_b=9)
    prompts = {row["prompt"] for row in train} | {row["prompt"] for row in test}
    assert len(train) + len(test) == len(prompts) == 20 * 10
    assert 20 < len(test) < 60


def test_arithmetic_rows_are_right():
    for row in arithmetic("train"):
        a, b = row["prompt"].removesuffix("=").split("+")
        assert row["ground_truth"] == str(int(a) + int(b))
        assert row["completion"] == rf"\boxed{{{row['ground_truth']}}}"


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="splits train and test, got 'validation'"):
        arithmetic("validation")


def test_calculator_annotations_become_questions():
    answer = "She sold 48/2 = <<48/2=24>>24 clips. Altogether 48+24 = <<48 + 24=72>>72. #### 72, <<1000*1=1,000>>"
    rows = gsm8k_calculator({"answer": answer})
    assert [(row["prompt"], row["ground_truth"]) for row in rows] == [
        ("48/2=", "24"),
        ("48+24=", "72"),
        ("1000*1=", "1000"),
    ]
    assert rows[0]["completion"] == r"\boxed{24}"


def test_long_annotations_are_left_out():
    row = {"answer": "<<1+2+3+4+5+6+7=28>> <<1+1=2>>"}
    assert [made["prompt"] for made in gsm8k_calculator(row, max_length=6)] == ["1+1="]


def test_the_real_gsm8k_splits_load_and_are_numerous(shared_data):
    counts = {}
    for split in ("train", "test"):
        config = DataConfig(path=str(shared_data / "gsm8k"), split=split, transform="gsm8k_calculator")
        rows = load_rows(config, 0)
        counts[split] = len(rows)
        assert all(row["prompt"].endswith("=") and row["ground_truth"] for row in rows)
    assert counts["train"] > 15000
    assert counts["test"] > 2500


def test_a_careless_teacher_forgets_to_carry_but_the_ground_truth_is_right():
    rows = arithmetic("train", max_a=89, max_b=9, careless=0.7, rows=5000)
    slips = [row for row in rows if row["completion"] != rf"\boxed{{{row['ground_truth']}}}"]
    carrying = [row for row in rows if sum(int(part[-1]) for part in row["prompt"][:-1].split("+")) >= 10]
    assert len(rows) == 5000
    assert abs(len(slips) / len(carrying) - 0.7) < 0.03
    assert all(row in carrying for row in slips)
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in arithmetic("train", max_a=89, max_b=9)}


@pytest.mark.parametrize(("a", "b", "total"), [(27, 5, 22), (27, 2, 29), (99, 9, 98), (0, 0, 0), (58, 67, 15)])
def test_adding_without_carry_by_hand(a, b, total):
    assert add_without_carry(a, b) == total


def test_columns_of_any_data_set_take_the_names_that_rewards_read():
    row = {"problem": "1+1?", "answer": "2", "level": 1}
    columns = {"prompt": "problem", "ground_truth": "answer"}
    assert rename(row, columns=columns) == [{"prompt": "1+1?", "ground_truth": "2", "level": 1}]
    assert rename(row, columns=columns, suffix=" Box it.")[0]["prompt"] == "1+1? Box it."
    with pytest.raises(ValueError, match="rename: no column 'question'; the row has: problem, answer, level"):
        rename(row, columns={"prompt": "question"})


def test_gsm8k_rows_are_questions_with_their_final_answers():
    row = {"question": "How many?", "answer": "It is 1,000.\n#### 1,000"}
    assert gsm8k(row, suffix=" Box it.") == [{"prompt": "How many? Box it.", "ground_truth": "1,000"}]


ASKED = [{"role": "user", "content": "1+1? Box it."}]


def test_math_rows_are_problems_with_the_answer_alone():
    solution = r"First \boxed{3} is wrong. So \boxed{\frac{1}{2}}."
    row = {"problem": "1+1?", "solution": solution, "level": "Level 1", "type": "Algebra"}
    made = {"prompt": "1+1? Box it.", "ground_truth": r"\frac{1}{2}", "level": "Level 1"}
    assert math(row, suffix=" Box it.") == [made]
    assert math(row | {"answer": "2"}, suffix=" Box it.", chat=True) == [made | {"prompt": ASKED, "ground_truth": "2"}]
    assert math({"problem": "1+1?", "solution": "two"}) == []


@pytest.mark.parametrize("column", ["text", "prompt"])
def test_mbpp_rows_show_their_first_test_and_keep_all(column):
    row = {column: "Add.", "test_list": ["assert f(1) == 2", "assert f(2) == 3"], "code": "def f(x): return x + 1"}
    shown = "Add.\nYour code must pass this test:\nassert f(1) == 2 Go."
    assert mbpp(row, suffix=" Go.") == [row | {"prompt": shown}]
    assert mbpp(row, chat=True)[0]["prompt"][0]["role"] == "user"
    with pytest.raises(ValueError, match="`test_list` must be a list of assertions; got None"):
        mbpp({column: "Add."})


def test_any_question_may_be_asked_in_a_users_message():
    assert gsm8k({"question": "1+1?", "answer": "#### 2"}, suffix=" Box it.", chat=True)[0]["prompt"] == ASKED
    renamed = rename({"q": "1+1?"}, columns={"prompt": "q"}, prefix="Say: ", suffix=".", chat=True)
    assert renamed == [{"prompt": [{"role": "user", "content": "Say: 1+1?."}]}]
    messages = [{"role": "user", "content": "hi"}]
    assert rename({"q": messages}, columns={"prompt": "q"}, suffix="!", chat=True) == [{"prompt": messages}]


def test_every_solution_of_math500_ends_in_its_answer(shared_data):
    rows = [row for _, row in read_jsonl(shared_data / "math500" / "math500_test.jsonl")]
    found = [math(row | {"answer": None})[0]["ground_truth"] for row in rows]
    same = [one.replace(" ", "") == row["answer"].replace(" ", "") for one, row in zip(found, rows, strict=True)]
    assert (len(rows), sum(same)) == (500, 500)
