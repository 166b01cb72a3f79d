"""Turn rows with a prompt and its completion into the canvases that the supervised stages imitate."""

from collections.abc import Sequence
from dataclasses import dataclass

from redraft.rl.data.load import located
from redraft.rl.data.reading import Reader, Survey
from redraft.rl.data.rows import Row, place_of
from redraft.rollout.blocks import padded_length


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the canvas that answers it: the completion, then end tokens to the end of the last block."""

    prompt: tuple[int, ...]
    canvas: tuple[int, ...]


def encode_rows(
    rows: Sequence[Row], reader: Reader, block_length: int, source: str = "sft.data"
) -> list[Demonstration]:
    """Turn rows with `prompt` and `completion` into demonstrations, with end tokens up to the end of the last block.

    Args:
        rows: Checked rows.
        reader: The policy's text side.
        block_length: Tokens per block.
        source: What errors call the rows, see `rl.data.load.source_name`.

    Raises:
        DataError: A row has no completion, or one that the policy cannot learn.
    """
    survey, encoded = Survey(reader.tokenizer, source), []
    for number, row in enumerate(rows, start=1):
        place = place_of(row, source, number)
        with located(place):
            demonstration = _demonstrate(row, reader, block_length)
        survey.see(place, row["prompt"], demonstration.prompt)
        survey.see(place, row["completion"], demonstration.canvas)
        encoded.append(demonstration)
    survey.tell()
    return encoded


def _demonstrate(row: Row, reader: Reader, block_length: int) -> Demonstration:
    completion = row.get("completion")
    if not isinstance(completion, str):
        found = f"got {str(completion)[:60]!r}" if "completion" in row else f"got the columns {', '.join(row)}"
        raise ValueError(f"a demonstration needs `completion`, as text; {found}")
    prompt, answer = reader.read_prompt(row["prompt"]), reader.read_answer(completion)
    end = padded_length(len(prompt) + len(answer) + 1, block_length)
    if end > reader.limits.max_positions:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens; with its completion in whole blocks of {block_length} it needs"
            f" {end} positions, but the policy has {reader.limits.max_positions}"
        )
    ends = [reader.tokens.end] * (end - len(prompt) - len(answer))
    return Demonstration(tuple(prompt), (*answer, *ends))
