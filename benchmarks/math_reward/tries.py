r"""The completions that `math_recall.py` scores: right ones, the same against another gold answer, near misses."""

import json
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.math_reward.forms import CARRIERS, VALUES, asks_for_a_form, carried, letter
from benchmarks.math_reward.near_misses import NEAR_MISSES

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REDRAFT_DATA", ROOT.parent / "shared/data"))
SENTENCE = "We add up. The answer is $X$."
BOX = r"The final answer is: $\boxed{X}$"


@dataclass(frozen=True)
class Try:
    """One completion to score: `right` says what the score should be."""

    group: str
    form: str
    data: str
    prompt: str
    completion: str
    gold: str
    right: bool
    alone: tuple[str, str] | None = None  # gold and prediction for math-verify alone, where they are not these two


@dataclass
class Golds:
    """Rows of (data set, prompt, gold answer), and a seeded choice of another row whose answer is another one."""

    rows: list[tuple[str, str, str]]
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        self.by_text = sorted({gold for _, _, gold in self.rows})
        self.place = {gold: place for place, gold in enumerate(self.by_text)}

    def other(self, gold: str) -> str:
        """Another row's gold that is surely unequal: any one, or a neighbour in the order of their texts."""
        while True:
            near = self.place[gold] + self.rng.choice([-3, -2, -1, 1, 2, 3])
            found = self.by_text[near % len(self.by_text)] if self.rng.random() < 0.5 else self.rng.choice(self.by_text)
            if bool(letter(found)) == bool(letter(gold)) and not maybe_equal(found, gold):
                return found


def maybe_equal(left: str, right: str) -> bool:
    """Whether two gold answers could count as one: the same signs, one number, a hundredfold, or equal by algebra."""
    from math_verify import verify

    def signs(text: str) -> str:
        return re.sub(r"\\(?:left|right|text|mbox|circ)|[^A-Za-z0-9]", "", text).lower()

    if signs(left) == signs(right):
        return True
    first, second = parse_gold(left), parse_gold(right)
    try:
        one, other = (complex(answer[0].evalf()) for answer in (first, second))
        return any(abs(one - scale * other) <= 1e-5 * abs(one) for scale in (1, 100, 0.01))
    except (AttributeError, IndexError, TypeError, ValueError):
        return verify(first, second) or verify(second, first)


def parse_gold(gold: str) -> list[Any]:
    """The gold answer by math-verify, in a box: bare, it misses or misreads a fifth of MATH-500."""
    from math_verify import parse

    return parse(rf"\boxed{{{gold}}}")


def read_golds(num_gsm8k: int, num_others: int | None) -> Golds:
    """Data set, prompt and gold answer of every row; of GSM8K a seeded sample (0: all)."""

    def lines(path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (DATA / path).read_text().splitlines()]

    gsm8k = [("gsm8k", row["question"], row["answer"].rpartition("#### ")[2]) for row in lines("gsm8k/test.jsonl")]
    gsm8k = random.Random(7).sample(gsm8k, num_gsm8k) if num_gsm8k else gsm8k
    math500 = [("math500", row["problem"], row["answer"]) for row in lines("math500/math500_test.jsonl")]
    aime = [
        ("aime", row["problem"], str(row["expected_answer"]))
        for year in ("aime24", "aime25")
        for row in lines(f"aime/{year}.jsonl")
    ]
    return Golds(gsm8k + math500[:num_others] + aime[:num_others])


def tries(golds: Golds) -> list[Try]:
    """Every right completion, the same against another row's gold, and every near miss."""
    found = []
    for data, prompt, gold in golds.rows:
        texts = [("text around the answer", name, carried(name, gold)) for name in CARRIERS]
        values = [(name, form(gold)) for name, form in VALUES.items()]
        if asks_for_a_form(prompt):
            values = [(name, value) for name, value in values if not name.startswith("equal")]
        texts += [("form of the answer", name, BOX.replace("X", value)) for name, value in values if value]
        for group, name, text in texts:
            if text:
                found.append(Try(group, name, data, prompt, text, gold, True))
                found.append(Try(group, name, data, prompt, text, golds.other(gold), False))
        for name, form in NEAR_MISSES.items():
            value = form(gold)
            if value and value != gold:
                texts = {"near miss": BOX, "near miss in a sentence": SENTENCE}
                found += [
                    Try(at, name, data, prompt, text.replace("X", value), gold, False) for at, text in texts.items()
                ]
    return found


def as_completion(text: str) -> str:
    """A prediction of math-verify's cases as a completion: its last formula, or all of it, in a box."""
    formulas = re.findall(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text, re.DOTALL)
    boxed = re.search(r"\\(?:boxed|fbox)", text)
    return text if boxed else rf"\boxed{{{''.join(formulas[-1]) if formulas else text}}}"


def known_cases() -> list[Try]:
    """math-verify's own cases and the public ones, each with its right verdict."""
    own = [json.loads(line) for line in (DATA / "mathverify/math_verify_0.9.0_cases.jsonl").read_text().splitlines()]
    public = [json.loads(line) for line in (DATA.parent / "cases/rewards.jsonl").read_text().splitlines()]
    found = [
        Try(
            *("known cases", "math-verify's 262 cases", "", "", as_completion(case["pred"]), case["gold"]),
            right=case["expected"],
            alone=(case["gold"], case["pred"]),
        )
        for case in own
    ]
    for case in public:
        if case["kind"].startswith("math"):
            columns = [case["input"][name] for name in ("prompt", "completion", "ground_truth")]
            found.append(Try("known cases", case["kind"], "", *columns, right=case["expected"] == 1.0))
    return found
