import contextlib
import json
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from redraft.rewards import RewardError, RewardMixture, RewardTerm, Sample
from redraft.rewards.library.instructions import bind, follows, follows_loosely, ifeval
from redraft.rewards.library.instructions.language import count_capital_words, sentences
from redraft.rewards.library.instructions.table import FURTHER, IFEVAL, INSTRUCTIONS

CASE_NAMES = {  # the official unit tests call some instructions by other names than the data does
    "detectable_format:exact_number_bullet_points": "detectable_format:number_bullet_lists",
    "detectable_format:minimum_number_highlighted_sections": "detectable_format:number_highlighted_sections",
    "detectable_format:rephrasing": "detectable_format:rephrase",
    "keywords:include_keywords": "keywords:existence",
    "keywords:keyword_frequency": "keywords:frequency",
    "length_constraint:number_paragraphs": "length_constraints:number_paragraphs",
    "length_constraint:number_words": "length_constraints:number_words",
}
ARGUMENTS = {  # one usable set for each instruction
    "keywords:existence": {"keywords": ["aab", "b"]},
    "keywords:frequency": {"keyword": "aab", "frequency": 9, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["aab", "zz"]},
    "keywords:letter_frequency": {"letter": "#", "let_frequency": 9, "let_relation": "at least"},
    "language:response_language": {"language": "en"},
    "length_constraints:number_sentences": {"num_sentences": 31, "relation": "less than"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 3},
    "length_constraints:number_words": {"num_words": 300, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "a"},
    "detectable_content:number_placeholders": {"num_placeholders": 3},
    "detectable_content:postscript": {"postscript_marker": "P.P.S"},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:number_highlighted_sections": {"num_highlights": 3},
    "detectable_format:multiple_sections": {"section_spliter": "a", "num_sections": 3},
    "combination:repeat_prompt": {"prompt_to_repeat": "aab"},
    "startend:end_checker": {"end_phrase": "aab"},
    "change_case:capital_word_frequency": {"capital_frequency": 3, "capital_relation": "less than"},
    "keywords:key_sentences": {"key_sentences": ["A b.", "C d."], "num_sentences": 1},
    "detectable_content:rephrase_paragraph": {"original_paragraph": "a b c", "low": 1, "high": 2},
    "detectable_format:rephrase": {"original_message": "I am *happy*."},
    "multi-turn:constrained_start": {"starter": "I think"},
}


def check(instruction_id, kwargs, text):
    return bind(instruction_id, kwargs)(text)


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def benchmark(shared_data):
    """Rows of the benchmark by key, each with GPT-4's response, where there is one."""
    folder = shared_data / "ifeval"
    responses = read_jsonl(folder / "input_response_data_gpt4_20231107_145030.jsonl")
    by_prompt = {row["prompt"].strip(): row["response"] for row in responses}
    rows = {row["key"]: row for row in read_jsonl(folder / "input_data.jsonl")}
    for row in rows.values():
        row["response"] = by_prompt.get(row["prompt"].strip())
    assert len(rows) == 541
    assert sum(row["response"] is None for row in rows.values()) == 1
    return rows


def score(names, kwargs, completion, **settings):
    (verdict,) = ifeval([completion], [names], [kwargs], **settings)
    return verdict.score, str(verdict.status), verdict.detail


def test_the_table_has_the_25_instructions_of_the_benchmark(benchmark):
    used = {name for row in benchmark.values() for name in row["instruction_id_list"]}
    assert used == set(IFEVAL)
    assert len(IFEVAL) == 25


def test_all_96_official_cases_are_decided_as_recorded(shared_data):
    cases = read_jsonl(shared_data / "ifeval" / "official_unit_test_cases.jsonl")
    assert len(cases) == 96
    differing = []
    for case in cases:
        kwargs = {
            name: value["__set__"] if isinstance(value, dict) else value for name, value in case["kwargs"].items()
        }
        followed = check(CASE_NAMES.get(case["id"], case["id"]), kwargs, case["response"])
        # Two of the official cases raise for a response without the marks it should have: here it does not follow.
        assert "expected" in case or case["raises"] == "ValueError"
        if followed != case.get("expected", False):
            differing.append(case)
    assert differing == []


def test_every_deterministic_gpt4_verdict_is_reached_strictly_and_loosely(shared_data, benchmark):
    verdicts = read_jsonl(shared_data / "ifeval" / "gpt4_verdicts_part.jsonl")
    decided = [verdict for verdict in verdicts if verdict["deterministic"]]
    assert (len(verdicts), len(decided)) == (381, 380)
    assert {verdict["instruction_id"] for verdict in decided} == set(IFEVAL)
    differing = []
    for verdict in decided:
        row, index = benchmark[verdict["key"]], verdict["index"]
        assert row["instruction_id_list"][index] == verdict["instruction_id"]
        bound = bind(verdict["instruction_id"], row["kwargs"][index])
        reached = follows(bound, row["response"]), follows_loosely(bound, row["response"])
        if reached != (verdict["strict"], verdict["loose"]):
            differing.append((verdict, reached))
    assert differing == []


def test_the_reward_repeats_lm_evals_scores_of_gpt4(benchmark):
    rows = [row for row in benchmark.values() if row["response"] is not None]
    columns = [[row[name] for row in rows] for name in ("response", "instruction_id_list", "kwargs")]
    counts = [len(row["kwargs"]) for row in rows]
    prompts, shares = (ifeval(*columns, score=score) for score in ("all", "fraction"))
    assert sum(verdict.score for verdict in prompts) == 417  # of 540: 0.7722, as lm-eval 0.4.13 says
    followed = sum(verdict.score * count for verdict, count in zip(shares, counts, strict=True))
    assert (round(followed, 9), sum(counts)) == (697, 832)  # 0.8377, as lm-eval 0.4.13 says
    loose = ifeval(*columns, mode="loose")
    # lm-eval: 429, with a random letter for '#' in 1122 and for '!' in 1129, which these two responses have.
    assert {row["key"] for row, verdict in zip(rows, loose, strict=True) if verdict.score} >= {1122, 1129}
    assert sum(verdict.score for verdict in loose) == 431


def test_a_repeated_instruction_is_reported_by_its_place():
    names, kwargs = (
        ["keywords:existence"] * 2 + ["punctuation:no_comma"],
        [{"keywords": ["cat"]}, {"keywords": ["dog"]}, {}],
    )
    assert score(names, kwargs, "A cat, alone.") == (
        0.0,
        "wrong",
        "2 of 3 not followed: 1 keywords:existence, 2 punctuation:no_comma",
    )
    assert score(names, kwargs, "A cat, alone.", score="fraction")[:2] == (pytest.approx(1 / 3), "wrong")
    assert score(names, kwargs, "A cat and a dog.") == (1.0, "ok", "")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "keywords:exist",
            {},
            "no instruction is named 'keywords:exist'; did you mean 'keywords:exis",
        ),
        (None, {}, "no instruction is named None; valid: keywords:existence, keywords:frequency,"),
        ("keywords:existence", {}, "keywords:existence: needs keywords; its arguments: keywords"),
        ("keywords:existence", {"keywords": None}, "needs keywords"),
        ("keywords:existence", {"keyword": "a"}, "needs keywords and does not take keyword"),
        ("keywords:existence", {"keywords": []}, r"keywords must be a list of texts, at least one, got \[\]"),
        ("keywords:existence", {"keywords": [" "]}, "none of them blank"),
        ("keywords:existence", {"keywords": "cat"}, "keywords must be a list of texts"),
        ("keywords:existence", "{}", "needs keywords"),
        ("keywords:existence", "cat", "kwargs must be a mapping of arguments, got str 'cat'"),
        ("punctuation:no_comma", {"n": 1}, "does not take n; its arguments: none"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "one character",
        ),
        ("keywords:letter_frequency", {"letter": " ", "let_frequency": 1, "let_relation": "at least"}, "not blank"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "a whole number from 0, got -1"),
        (
            "length_constraints:number_words",
            {"num_words": True, "relation": "at least"},
            "a whole number from 0, got True",
        ),
        (
            "length_constraints:number_words",
            {"num_words": 2.5, "relation": "at least"},
            "a whole number from 0, got 2.5",
        ),
        (
            "length_constraints:number_words",
            {"num_words": 5, "relation": "at most"},
            "'less than' or 'at least', got 'at m",
        ),
        ("language:response_language", {"language": "zh"}, "language must be one of af, ar,.*zh-cn, zh-tw, got 'zh'"),
        ("startend:end_checker", {"end_phrase": " "}, "end_phrase must be a text that is not blank"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "nth_paragraph=3 is above num_paragraphs=2",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"},
            "nth_paragraph must be a whole number from 1, got 0",
        ),
    ],
)
def test_an_unusable_instruction_is_reported_and_never_scored(name, kwargs, message):
    number, status, detail = score([name], [kwargs], "Any text.")
    assert (number, status) == (None, "gold_error")
    with pytest.raises(RewardError, match=message):
        bind(name, kwargs)
    assert detail.startswith("row 0: instruction 0: ")


@pytest.mark.parametrize(
    ("names", "kwargs"), [(None, None), ([], []), (["punctuation:no_comma"], []), ("punctuation:no_comma", [{}, {}])]
)
def test_columns_that_do_not_go_together_are_reported_and_never_scored(names, kwargs):
    number, status, detail = score(names, kwargs, "Any text.")
    assert (number, status) == (None, "gold_error")
    assert "row 0: instruction_id_list and kwargs must be lists of equal length" in detail


def test_one_broken_row_leaves_the_other_rows_their_scores():
    verdicts = ifeval(["no", "no", "a, b"], [["punctuation:no_comma"], ["x"], ["punctuation:no_comma"]], [[{}]] * 3)
    assert [verdict.score for verdict in verdicts] == [1.0, None, 0.0]
    assert verdicts[1].detail.startswith("row 1: instruction 0: no instruction is named 'x'")


def test_null_arguments_count_as_absent_and_whole_floats_as_numbers():
    every = dict.fromkeys({name for instruction in IFEVAL.values() for name in instruction.arguments})
    assert len(every) == 24
    assert score(["punctuation:no_comma"], [every], "No comma.")[0] == 1.0
    assert score(["punctuation:no_comma"], [None], "No comma.")[0] == 1.0
    words = every | {"num_words": 3.0, "relation": "less than"}
    assert score(["length_constraints:number_words"], [words], "Two words")[0] == 1.0
    assert score(["length_constraints:number_words"], [words], "Now three words")[0] == 0.0


WORDS, COMMA = "length_constraints:number_words", "punctuation:no_comma"
THREE = {"num_words": 3, "relation": "less than"}


@pytest.mark.parametrize(
    ("names", "kwargs"),
    [
        ([COMMA], ["{}"]),
        ([WORDS], [json.dumps(THREE)]),
        ([WORDS], json.dumps([THREE])),
        (json.dumps([WORDS, COMMA]), json.dumps([THREE, None])),
        (json.dumps([WORDS, COMMA]), [json.dumps(THREE), "null"]),
        (str([WORDS, COMMA]), str([THREE, {}])),
        (WORDS, THREE),
        (WORDS, [THREE]),
        ([WORDS, COMMA], {"num_words": [3.0, None], "relation": ["less than", None]}),
        ([WORDS], {"num_words": [3], "relation": ["less than"]}),
        (["keywords:existence"], {"keywords": ["two"]}),
        (["keywords:existence"], {"keywords": [["two"]]}),
        (["keywords:existence"], [{"keywords": '["two", "words"]'}]),
        ([COMMA, COMMA], None),
        ([COMMA], ""),
        ([WORDS], [{"num_words": "3", "relation": "Less than"}]),
        ([WORDS], [{"num_words": "3.0", "relation": " less than ", "keywords": [], "letter": "", "n": float("nan")}]),
        ([WORDS], [{"num_words": Decimal("3"), "relation": "less than"}]),
        (["language:response_language"], [{"language": "EN "}]),
    ],
)
def test_names_and_arguments_may_be_text_or_in_any_layout_of_a_table(names, kwargs):
    answer = "These are two words of English that everybody understands" if "language" in str(names) else "two words"
    assert score(names, kwargs, answer) == (1.0, "ok", "")


def test_arrays_of_numpy_as_a_parquet_file_gives_them_are_lists():
    import numpy as np

    names = np.array([WORDS, COMMA], dtype=object)
    kwargs = np.array([{"num_words": np.int64(3), "relation": "less than"}, {"keywords": None}], dtype=object)
    assert score(names, kwargs, "two words") == (1.0, "ok", "")
    assert score(["keywords:existence"], [{"keywords": np.array(["two"], dtype=object)}], "two words")[0] == 1.0


@pytest.mark.parametrize("kwargs", ["{", "[1", "(", '"', "[" * 5000, "nan", 7, ["{'a'"], {"num_words": [1, 2, 3]}])
def test_text_that_stands_for_no_arguments_is_reported_and_never_scored(kwargs):
    assert score([WORDS], kwargs, "two words")[:2] == (None, "gold_error")


def test_an_explicit_zero_is_a_number_and_not_a_random_draw():
    kwargs = {"frequency": 0, "keyword": "a", "relation": "at least"}
    assert check("keywords:frequency", kwargs, "none of them")
    assert not check("keywords:frequency", kwargs | {"relation": "less than"}, "none of them")


@pytest.mark.parametrize("mode", ["strict", "loose"])
@pytest.mark.parametrize("completion", ["", " \n", "<think>A plan, with commas.</think>\n", "<think>never closed"])
def test_an_empty_answer_scores_zero_even_where_nothing_is_forbidden(completion, mode):
    assert score(["punctuation:no_comma"], [{}], completion, mode=mode) == (0.0, "no_answer", "")


def test_the_reasoning_is_not_part_of_the_answer():
    assert score(["punctuation:no_comma"], [{}], "<think>a, b</think>No comma.")[0] == 1.0
    kwargs = {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "first"}
    names = ["length_constraints:nth_paragraph_first_word"]
    assert score(names, [kwargs], "<think>a</think>\n\nFirst one.\n\nSecond one.")[0] == 1.0


def test_an_answer_that_is_too_long_to_be_kept_whole_follows_nothing():
    assert score(["punctuation:no_comma"], [{}], "a" * 49_999)[0] == 1.0
    assert score(["punctuation:no_comma"], [{}], "a,b" + "a" * 50_000)[:2] == (0.0, "wrong")


def test_a_text_without_language_is_in_no_language():
    for text in ("42", "12:30 - 14:00", "https://example.org/abc", "***"):
        assert not check("language:response_language", {"language": "en"}, text)
    assert not check("change_case:english_capital", {}, "HTTP://EXAMPLE.ORG 42")
    assert not check("change_case:english_lowercase", {}, "https://example.org/abc")


def test_a_text_of_asterisks_is_no_empty_version_that_follows_in_loose_mode():
    highlights = bind("detectable_format:number_highlighted_sections", {"num_highlights": 1})
    no_commas, quotation = bind("punctuation:no_comma", {}), bind("startend:quotation", {})
    assert follows_loosely(no_commas, "***")  # as it stands, not because the version without asterisks is empty
    assert not any(follows_loosely(bound, "***\n****\n*") for bound in (highlights, quotation))
    assert not follows_loosely(no_commas, ",*\n*,")  # without its first and last line it is empty


def test_loose_mode_forgives_a_first_line_a_last_line_and_asterisks():
    quotation = ["startend:quotation"]
    for text in ('Sure:\n"Yes."', '"Yes."\nDone.', 'Sure:\n"Yes."\nDone.', '**"Yes."**', 'Sure:\n*"Yes."*\nDone.'):
        assert score(quotation, [{}], text)[0] == 0.0
        assert score(quotation, [{}], text, mode="loose")[0] == 1.0
    assert score(quotation, [{}], 'So:\nSure:\n"Yes."', mode="loose")[0] == 0.0


def test_words_of_the_data_are_text_and_not_patterns():
    assert check("keywords:existence", {"keywords": ["c++", "(a"]}, "In C++ (a language)")
    assert not check("keywords:existence", {"keywords": [".*"]}, "anything")
    assert not check("keywords:forbidden_words", {"forbidden_words": ["c++"]}, "In C++ it is.")
    assert check("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "Rocket.")
    assert check("keywords:frequency", {"keyword": "a.", "frequency": 1, "relation": "less than"}, "ab ab")


def test_signs_can_be_counted_as_letters():
    kwargs = {"letter": "#", "let_frequency": 2, "let_relation": "at least"}
    assert check("keywords:letter_frequency", kwargs, "# one ## two")
    assert not check("keywords:letter_frequency", kwargs, "one # two")


def test_a_bullet_is_counted_once_however_it_is_indented():
    for text in ("* a\n* b\n* c", "\n\n  * a\n\t* b\n\n- c", "* a\n*b\n***\n-c"):
        assert check("detectable_format:number_bullet_lists", {"num_bullets": 3}, text)


def test_sentences_end_after_a_small_letter_but_not_after_an_initial():
    assert len(sentences("You are in o. Please stay.")) == 2
    assert len(sentences("Ask J. Smith. He knows.")) == 2
    assert len(sentences("One. Two. Three.", at_most=2)) == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Smith met Mr. Jones.", 1),
        ("Prof. Lee and Mrs. King left at 5 p.m. on Jan. 3. They came back.", 2),
        ("He lives in the U.S. and works for Acme Inc. in D.C. today.", 1),
        ("Bring fruit, e.g. apples, i.e. red ones, etc. to the party.", 1),
        ("J. K. Rowling and George W. Bush met St. Nick.", 1),
        ("J.R.R. Tolkien wrote it. I read it.", 2),
        ("Pi is 3.14 and version 2.0.1 is out. It works.", 2),
        ("Well... maybe so. Wait... The end.", 3),
        ("She moved to the U.S. The house is big.", 2),
        ("He is a Ph.D. in Boston vs. me.", 1),
        ("P.S. Remember the milk.", 2),
        ("Is it so? Yes! Good.", 3),
    ],
)
def test_abbreviations_end_no_sentence_and_what_follows_them_may_start_one(text, count):
    assert len(sentences(text)) == count, sentences(text)


def test_collapsed_white_space_changes_no_count_of_capital_words(benchmark):
    from nltk.tokenize import word_tokenize

    for row in benchmark.values():
        text = row["response"] or ""
        words = word_tokenize(text, preserve_line=True)
        assert count_capital_words(text) == sum(word.isupper() for word in words), row["key"]


COLD_START = """
import json, random, socket, sys, threading
state = random.getstate()
from redraft.rewards.library.instructions import bind, follows, follows_loosely

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")

socket.socket.connect = refuse
texts = ["hello world", "One. Two. Three. Four.", "# ok", "Desayunamos en McDonald's hoy", "42"]
barrier, results = threading.Barrier(16), []

def work():
    barrier.wait()
    bound = [bind(name, kwargs) for name, kwargs in json.loads(sys.argv[1]).items()]
    results.append([[follows(check, text), follows_loosely(check, text)] for check in bound for text in texts])

threads = [threading.Thread(target=work) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
from langdetect import DetectorFactory
unchanged = random.getstate() == state and DetectorFactory.seed is None
print(json.dumps({"threads": len(results), "different": len(set(map(str, results))), "unchanged": unchanged}))
"""


def test_16_threads_agree_at_a_cold_start_and_nothing_global_is_touched_or_downloaded(tmp_path):
    instructions = {name: ARGUMENTS.get(name, {}) for name in INSTRUCTIONS}
    command = [sys.executable, "-W", "error", "-c", COLD_START, json.dumps(instructions)]
    environment = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "NLTK_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"threads": 16, "different": 1, "unchanged": True}
    assert list(tmp_path.iterdir()) == []


def test_the_arguments_of_this_file_are_those_of_the_table():
    for name, instruction in INSTRUCTIONS.items():
        assert ARGUMENTS.get(name, {}).keys() == instruction.arguments.keys(), name


HOSTILE = [
    "a",
    "A",
    "a ",
    "A ",
    "aab",
    "\n",
    " ",
    "\n\n",
    " \n",
    "\t",
    ".",
    ". ",
    "a. ",
    "A. ",
    "? ",
    "?",
    "!",
    "*",
    "* ",
    "**a",
]
HOSTILE += [
    "***",
    "[",
    "]",
    "[a",
    "<",
    "<<",
    ">>",
    "<<a",
    "-",
    "- \n",
    "#",
    '"',
    "'",
    "{",
    '{"a":',
    "1",
    "1 ",
    "a1",
    ",",
]
HOSTILE += ["p.", "p. p. ", "P.P.", "@", "a@", "http://", "\u00e9", "\u3042", "\u00a0", "```", "My answer is "]


HOSTILE += ["x." + " " * 50_000 + "b", "[" * 49_000 + "]", "*" + "\n" * 49_000 + "*", "<<" * 24_000 + ">"]


@pytest.mark.parametrize("name", sorted(INSTRUCTIONS))
def test_no_long_text_keeps_a_checker_busy(name):
    bound, slow = bind(name, ARGUMENTS.get(name, {})), {}
    bound("Warm up. Done.")
    # Punkt looks at every full stop, at 0.1 ms each: linear, but seconds for a text of 20,000 of them.
    length = 10_000 if "sentences" in name else 50_000
    for piece in HOSTILE:
        text = piece * max(1, length // len(piece))
        started = time.process_time()
        assert bound(text) in (True, False)
        seconds = time.process_time() - started
        if seconds > 1.0:
            slow[piece[:10]] = seconds
    assert slow == {}


def test_the_reward_runs_in_a_worker_with_the_columns_of_the_official_data():
    row = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "key": 1}
    term = RewardTerm(fn="ifeval", kwargs={"mode": "loose", "score": "fraction"})
    assert (term.isolation, term.timeout_s) == ("process", 30.0)
    with contextlib.closing(RewardMixture([term])) as mixture:
        scored = mixture.score([Sample("p", text, columns=row) for text in ("none", "one, two")])
    assert [sample.total for sample in scored] == [1.0, 0.0]
    assert scored[1].detail["ifeval"] == "1 of 1 not followed: 0 punctuation:no_comma"


@pytest.mark.parametrize("settings", [{"mode": "lose"}, {"score": "mean"}])
def test_an_unknown_mode_or_score_is_an_error_that_lists_the_valid_ones(settings):
    with pytest.raises(RewardError, match=r"mode: strict \| loose and score: all \| fraction"):
        score(["punctuation:no_comma"], [{}], "a", **settings)


def test_four_instructions_are_known_beyond_the_benchmark():
    assert sorted(FURTHER) == [
        "detectable_content:rephrase_paragraph",
        "detectable_format:rephrase",
        "keywords:key_sentences",
        "multi-turn:constrained_start",
    ]
