"""Completing a file of prompts."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.data import DataError, read_jsonl
from rl.policy import find_text_side, load_policy
from rl.seeding import derive_seed
from rl.tasks import Row
from rollout.chat import Tokenizer, decode_text, encode_prompt
from rollout.config import DecodeConfig
from rollout.decoder import decode
from rollout.torch_engine import TorchEngine
from rollout.trajectory import Completion, Prompt

DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True)
class GenerateJob:
    """What to complete and how."""

    model: str
    prompts: str
    out: str
    decode: DecodeConfig
    seed: int
    dtype: str
    device: str
    batch_size: int
    trace: bool


def run_generate(job: GenerateJob, advance: Callable[[int, int], None]) -> str:
    """Complete every row and write the output file; it appears only when it is whole.

    Args:
        job: The work.
        advance: Called with rows done and rows in total.

    Returns:
        A sentence with counts and speed.
    """
    if job.dtype not in DTYPES:
        raise ValueError(f"--dtype {job.dtype!r}: valid are {', '.join(DTYPES)}")
    rows = read_jsonl(job.prompts)
    tokenizer, tokens = find_text_side(job.model)
    prompts = [_encode(row, index, job, tokenizer) for index, row in enumerate(rows)]
    engine = TorchEngine(load_policy(job.model, job.dtype, job.device))
    started, total, forwards = time.perf_counter(), 0, 0
    partial = Path(f"{job.out}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        for first in range(0, len(prompts), job.batch_size):
            batch = prompts[first : first + job.batch_size]
            for row, completion in zip(rows[first:], decode(engine, batch, job.decode, tokens), strict=False):
                file.write(json.dumps(_output_row(row, completion, tokenizer, job.trace)) + "\n")
                total, forwards = total + len(completion.token_ids), forwards + completion.num_forwards
            advance(min(first + job.batch_size, len(prompts)), len(prompts))
    os.replace(partial, job.out)
    seconds = time.perf_counter() - started
    return (
        f"{len(rows)} completions, {total} tokens in {seconds:.1f} s ({total / seconds:.0f} tokens/s,"
        f" {total / max(forwards, 1):.2f} tokens per forward) written to {job.out}"
    )


def _encode(row: Row, index: int, job: GenerateJob, tokenizer: Tokenizer | None) -> Prompt:
    where = f"{job.prompts}: row {index + 1}"
    if "prompt_ids" in row:
        ids = row["prompt_ids"]
        if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
            raise DataError(f"{where}: prompt_ids must be a list of integers, got {str(ids)[:60]}")
    elif "prompt" in row:
        if tokenizer is None:
            raise DataError(f"{where}: {job.model} has no tokenizer, so text cannot be read; give prompt_ids")
        ids = encode_prompt(tokenizer, row["prompt"])
    else:
        raise DataError(f"{where}: needs `prompt` or `prompt_ids`, has {', '.join(row) or 'nothing'}")
    return Prompt(id=f"row {index + 1}", token_ids=tuple(ids), seed=derive_seed(job.seed, "generate", index))


def _output_row(row: Row, completion: Completion, tokenizer: Tokenizer | None, trace: bool) -> dict[str, Any]:
    made = {
        "completion_ids": list(completion.token_ids),
        "completion": None if tokenizer is None else decode_text(tokenizer, completion.token_ids),
        "finish_reason": completion.finish_reason,
        "num_forwards": completion.num_forwards,
        "num_edits": completion.trace.num_edits,
        "tokens_per_forward": completion.tokens_per_forward,
    }
    if trace:
        made["canvas_ids"] = list(completion.canvas_ids)
        made["trace"] = dataclasses.asdict(completion.trace) | {
            "unmask_forward": completion.trace.unmask_forward,
            "last_edit_forward": completion.trace.last_edit_forward,
            "edits": [edit._asdict() for edit in completion.trace.edits],
        }
    return {**row, **made}
