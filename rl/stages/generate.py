"""Completing a file of prompts."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.rl.data.files import read_jsonl
from redraft.rl.data.load import located
from redraft.rl.data.reading import Reader, Survey
from redraft.rl.data.rows import Row, check_prompt, check_texts
from redraft.rl.files import check_output_file, output_file
from redraft.rl.models.registry import load_policy
from redraft.rl.seeding import derive_seed
from redraft.rollout.chat import Tokenizer, decode_text
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt


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
    slots: int
    trace: bool


def run_generate(job: GenerateJob, advance: Callable[[int, int], None]) -> str:
    """Complete every row and write the output file, see `rl.files.output_file`.

    Args:
        job: The work.
        advance: Called with rows done and rows in total.

    Returns:
        A sentence with counts and speed.
    """
    check_output_file(job.out)
    reader = Reader.of(job.model, ids_only=True)
    rows, prompts = _read_prompts(job, reader)
    with output_file(job.out) as file:
        decoder = Decoder(TorchEngine(load_policy(job.model, job.dtype, job.device)), reader.tokens, job.slots)
        started, total, forwards = time.perf_counter(), 0, 0
        done: dict[int, Completion] = {}  # those that wait for an earlier row
        written = 0
        for count, (index, completion) in enumerate(decoder.stream(prompts, job.decode), start=1):
            done[index] = completion
            total, forwards = total + len(completion.token_ids), forwards + completion.num_forwards
            while written in done:
                row = _output_row(rows[written], done.pop(written), reader.tokenizer, job.trace)
                file.write(json.dumps(row) + "\n")
                written += 1
            advance(count, len(prompts))
    seconds = time.perf_counter() - started
    return (
        f"{len(rows)} completions, {total} tokens in {seconds:.1f} s ({total / seconds:.0f} tokens/s,"
        f" {total / max(forwards, 1):.2f} tokens per forward) written to {job.out}"
    )


def _read_prompts(job: GenerateJob, reader: Reader) -> tuple[list[Row], list[Prompt]]:
    """All rows and their prompts, checked before the weights are loaded; errors name file and line."""
    survey = Survey(reader.tokenizer, job.prompts)
    rows, prompts = [], []
    for index, (line, row) in enumerate(read_jsonl(job.prompts)):
        where = f"{job.prompts}:{line}"
        with located(where):
            token_ids = _encode(row, reader)
            reader.check_room(len(token_ids), job.decode)
        if "prompt_ids" not in row:
            survey.see(where, row["prompt"], token_ids)
        rows.append(row)
        prompts.append(Prompt(id=where, token_ids=token_ids, seed=derive_seed(job.seed, "generate", index)))
    survey.tell()
    return rows, prompts


def _encode(row: Row, reader: Reader) -> tuple[int, ...]:
    """The row's prompt, checked against the policy.

    Raises:
        ValueError: There is none, or the policy cannot read it.
    """
    if "prompt_ids" in row:
        ids = row["prompt_ids"]
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise ValueError(f"prompt_ids must be a list of integers, got {str(ids)[:60]}")
        return tuple(reader.check_ids(ids, "prompt_ids"))
    if "prompt" not in row:
        raise ValueError(f"needs `prompt` or `prompt_ids`, has {', '.join(row) or 'nothing'}")
    check_prompt(row)
    check_texts({"prompt": row["prompt"]})
    return tuple(reader.read_prompt(row["prompt"]))


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
        actions = {name: value for name, value in dataclasses.asdict(completion.trace).items() if name != "routes"}
        made["trace"] = actions | {
            "unmask_forward": completion.trace.unmask_forward,
            "last_edit_forward": completion.trace.last_edit_forward,
            "edits": [edit._asdict() for edit in completion.trace.edits],
        }
    return {**row, **made}
