"""Completing prompts with the editing decoder: of a file for the command, of a list for the Python API."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from redraft.rl.config.errors import describe_all
from redraft.rl.data.files import read_jsonl
from redraft.rl.data.load import located
from redraft.rl.data.reading import Reader, Survey
from redraft.rl.data.rows import Row, check_prompt, check_texts
from redraft.rl.files import check_output_file, output_file
from redraft.rl.models.generation import decode_defaults
from redraft.rl.models.registry import load_policy, policy_limits
from redraft.rl.seeding import derive_seed
from redraft.rollout.chat import Tokenizer, decode_text
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt


def decode_settings(model: str, mode: str | None, given: Mapping[str, Any]) -> DecodeConfig:
    """Make decoder settings from a mode and the keys that change it.

    Args:
        model: Policy folder, whose own block length is taken where none is given.
        mode: `q`, `s` or `llada2.0`; None is what the folder's generation_config.json names, and `q` for the rest.
        given: Keys of `DecodeConfig`; those with the value None are left to the mode.

    Raises:
        ValueError: A key or a value that does not fit.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    own = {"block_length": policy_limits(model).block_length}
    if mode is None:
        own |= decode_defaults(Path(model))
    try:
        return DecodeConfig.preset(mode or "q", own | chosen)
    except ValidationError as error:
        raise ValueError("; ".join(describe_all(error, DecodeConfig))) from None


def run_generate(
    model: str,
    prompts: str,
    out: str,
    decode: DecodeConfig,
    *,
    seed: int,
    dtype: str,
    device: str,
    slots: int,
    trace: bool,
    advance: Callable[[int, int], None],
) -> str:
    """Complete every row of a file and write the output file, see `rl.files.output_file`.

    Args:
        model: Policy folder.
        prompts: JSONL file.
        out: JSONL file to write.
        decode: Settings of the decoder.
        seed: Of the draws.
        dtype: Of the weights.
        device: Where they lie.
        slots: Completions decoded together.
        trace: Write every action of the decoder too.
        advance: Called with rows done and rows in total.

    Returns:
        A sentence with counts and speed.
    """
    check_output_file(out)
    rows = [(f"{prompts}:{line}", row) for line, row in read_jsonl(prompts)]
    made = complete_rows(
        model, rows, decode, seed=seed, dtype=dtype, device=device, slots=slots, trace=trace, advance=advance
    )
    started, total, forwards = time.perf_counter(), 0, 0
    with output_file(out) as file:
        for row in made:
            total, forwards = total + len(row["completion_ids"]), forwards + row["num_forwards"]
            file.write(json.dumps(row) + "\n")
    seconds = time.perf_counter() - started
    return (
        f"{len(rows)} completions, {total} tokens in {seconds:.1f} s ({total / seconds:.0f} tokens/s,"
        f" {total / max(forwards, 1):.2f} tokens per forward) written to {out}"
    )


def complete_rows(
    model: str,
    rows: Sequence[tuple[str, Row]],
    decode: DecodeConfig,
    *,
    seed: int,
    dtype: str,
    device: str,
    slots: int,
    trace: bool,
    advance: Callable[[int, int], None],
) -> Iterator[Row]:
    """Complete rows, all of which are checked before the weights are loaded.

    Args:
        model: Policy folder.
        rows: What errors call a row, and the row, with `prompt` or `prompt_ids`.
        decode: Settings of the decoder.
        seed: As in `run_generate`, like all that follow.
        dtype: See there.
        device: See there.
        slots: See there.
        trace: See there.
        advance: See there.

    Returns:
        The rows in their order, each with its completion; one appears when all before it are done.

    Raises:
        DataError: A row that cannot be completed.
    """
    reader = Reader.of(model, ids_only=True)
    prompts = _read_prompts(rows, reader, decode, seed)
    decoder = Decoder(TorchEngine(load_policy(model, dtype, device)), reader.tokens, slots)

    def completed() -> Iterator[Row]:
        done: dict[int, Completion] = {}  # those that wait for an earlier row
        written = 0
        for count, (index, completion) in enumerate(decoder.stream(prompts, decode), start=1):
            done[index] = completion
            while written in done:
                yield _output_row(rows[written][1], done.pop(written), reader.tokenizer, trace)
                written += 1
            advance(count, len(prompts))

    return completed()


def _read_prompts(rows: Sequence[tuple[str, Row]], reader: Reader, decode: DecodeConfig, seed: int) -> list[Prompt]:
    """Encode the prompts of all rows; errors name the row."""
    source = rows[0][0].rpartition(":")[0] if rows else "prompts"
    survey = Survey(reader.tokenizer, source)
    prompts = []
    for index, (where, row) in enumerate(rows):
        with located(where):
            token_ids = _encode(row, reader)
            reader.check_room(len(token_ids), decode)
        if "prompt_ids" not in row:
            survey.see(where, row["prompt"], token_ids)
        prompts.append(Prompt(id=where, token_ids=token_ids, seed=derive_seed(seed, "generate", index)))
    survey.tell()
    return prompts


def _encode(row: Row, reader: Reader) -> tuple[int, ...]:
    """Encode the prompt of a row, and check that the policy can read it.

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
