r"""How many right answers the math reward finds, and how many wrong ones it pays, against math-verify alone.

    OMP_NUM_THREADS=1 python -m benchmarks.math_reward.recall --label before \
        --out benchmarks/results/math_recall_before.json
    OMP_NUM_THREADS=1 python -m benchmarks.math_reward.recall --before benchmarks/results/math_recall_before.json

The gold answers of GSM8K (a seeded sample), MATH-500 and AIME are written in the forms of `math_forms.py`, with the
row's own prompt, and scored in the same run by `math_accuracy` and by math-verify with its defaults. Each completion is
also scored against the gold answer of another row, and the near misses of `math_near_misses.py` against their own.
Forms of an equal value ("equal: ...") are left out where the prompt asks for a form. Besides: math-verify's 262 cases
and the public cases. Reads the reference data (REDRAFT_DATA, default ../shared/data). Writes counts as JSON and a table
as Markdown beside it; `--misses` lists what a grader got wrong. Set PYTHONPATH to measure another tree.
"""

import argparse
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common.record import write_record
from benchmarks.math_reward.tries import BOX, ROOT, Try, known_cases, read_golds, tries
from redraft.rewards.library.math import math_verdicts
from redraft.rewards.text import POLICIES

LENIENT = [p for p in ("boxed_last", "answer_tag", "gsm8k_hash", "anchor", "last_number") if p in POLICIES]
GRADERS = ("default", "lenient", "math_verify")
CAPTION = f"""\
`default` is `math_accuracy` as it comes (its default extraction: the last box). `lenient` is the same with
`extract: [{", ".join(LENIENT)}]`: the fair comparison where a completion has no box.
`math-verify` is `verify(parse(gold in a box), parse(completion))` with its defaults. Each cell is `recall %, false
accepts`: the share of right completions that score 1, and how many wrong ones score 1 (another row's gold for the
same completions; near misses and known wrong cases where the row has them). A masked row (None) counts as not found.
The forms of one answer and the near misses stand in `{BOX}`."""


def by_redraft(tried: Sequence[Try], **extract: list[str]) -> list[bool | None]:
    """Whether the math reward pays; None for a masked row."""
    columns = [[getattr(one, name) for one in tried] for name in ("prompt", "completion", "gold")]
    scores = [verdict.score for verdict in math_verdicts(*columns, **extract)]  # pyright: ignore[reportArgumentType]
    return [None if score is None else score == 1.0 for score in scores]


def by_math_verify(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether math-verify alone accepts each (gold, completion); each text is parsed once."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    parsed = {text: parse(text) for text in {text for pair in pairs for text in pair}}
    return [verify(parsed[gold], parsed[text]) for gold, text in pairs]


def score(tried: Sequence[Try], num_workers: int) -> list[tuple[bool | None, ...]]:
    """What the three graders say of each try, in the order of `GRADERS`."""
    ours = [by_redraft(tried), by_redraft(tried, extract=LENIENT)]
    pairs = [one.alone or (rf"\boxed{{{one.gold}}}", one.completion) for one in tried]
    parts = [pairs[at : at + 400] for at in range(0, len(pairs), 400)]
    with ProcessPoolExecutor(num_workers) as executor:
        theirs = [accepted for part in executor.map(by_math_verify, parts) for accepted in part]
    return list(zip(*ours, theirs, strict=True))


def count(tried: Sequence[Try], scored: Sequence[tuple[bool | None, ...]]) -> list[dict[str, Any]]:
    """Counts by group and form, and by data set: of right and of wrong tries how many, how many were paid."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one, paid in zip(tried, scored, strict=True):
        side = "right" if one.right else "wrong"
        keys = [(one.group, one.form)] + ([("all of " + one.data, one.group)] if one.data else [])
        for key in keys:
            counts[key].update({side: 1, f"{side}_masked": int(paid[0] is None)})
            counts[key].update({f"{side}_{name}": int(bool(yes)) for name, yes in zip(GRADERS, paid, strict=True)})
    return [{"group": group, "form": form, **counted} for (group, form), counted in counts.items()]


def markdown(results: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The table: a row per form; for each grader recall and false accepts, of both runs where there are two."""
    runs = [(before["label"], before), (results["label"], results)] if before else [(results["label"], results)]
    columns = [(label, grader) for grader in GRADERS[:2] for label, _ in runs] + [(results["label"], GRADERS[2])]
    by_form = [{(row["group"], row["form"]): row for row in run["counts"]} for _, run in runs]
    heads = ["", "right", "wrong", *(f"{grader}, {label}" if before else grader for label, grader in columns)]
    lines = [CAPTION.replace("math-verify`", "math_verify`"), ""]
    group = None
    for row in sorted(results["counts"], key=lambda row: row["group"]):
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"## {group}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        counts = {
            label: forms.get((row["group"], row["form"]), {}) for (label, _), forms in zip(runs, by_form, strict=True)
        }
        cells = [_cell(counts[label], grader) for label, grader in columns]
        name = row["form"].replace("|", r"\|")
        lines.append(f"| `{name}` | {row.get('right', 0)} | {row.get('wrong', 0)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(counts: dict[str, Any], grader: str) -> str:
    right, wrong = counts.get("right", 0), counts.get("wrong", 0)
    recall = f"{100 * counts.get(f'right_{grader}', 0) / right:.1f} %" if right else "-"
    return f"{recall}, {counts.get(f'wrong_{grader}', 0)}" if wrong else recall


def main() -> None:
    """Score, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=int, default=500, help="rows of GSM8K's test set; 0: all")
    parser.add_argument("--others", type=int, help="rows of each other data set (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes for math-verify")
    parser.add_argument("--label", default="after", help="name of this run in the table")
    parser.add_argument("--before", type=Path, help="JSON of an earlier run, whose counts stand beside this one's")
    parser.add_argument("--misses", type=Path, help="JSONL of every completion that a grader got wrong")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/math_recall.json")
    args = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    tried = tries(read_golds(args.gsm8k, args.others)) + known_cases()
    scored = score(tried, args.workers)
    if args.misses:
        wrong = [
            (one, paid) for one, paid in zip(tried, scored, strict=True) if any(bool(p) != one.right for p in paid)
        ]
        args.misses.write_text("".join(json.dumps(vars(one) | {"paid": paid}) + "\n" for one, paid in wrong))
    results = {
        "label": args.label,
        "gsm8k_rows": args.gsm8k,
        "extract_lenient": LENIENT,
        "counts": count(tried, scored),
    }
    write_record(args.out, results)
    before = json.loads(args.before.read_text())["results"] if args.before else None
    table = markdown(results, before)
    args.out.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
