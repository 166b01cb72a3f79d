"""Turn rows of text into requests for the decoder, and completions into samples for the rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from redraft.rewards.scoring.mixture import Sample
from redraft.rl.data.rows import Row
from redraft.rl.seeding import derive_seed
from redraft.rollout.chat import Tokenizer, decode_text, encode_prompt
from redraft.rollout.trajectory import Completion, Prompt

TEXT_COLUMNS = frozenset({"prompt", "completion"})


@dataclass(frozen=True)
class Codec:
    """A tokenizer with the run's seed."""

    tokenizer: Tokenizer
    seed: int

    def prompts(self, rows: Sequence[Row], num_generations: int, purpose: str, step: int) -> list[Prompt]:
        """Make `num_generations` requests per row, group by group, each with a seed of its own."""
        encoded = [tuple(encode_prompt(self.tokenizer, row["prompt"])) for row in rows]
        return [
            Prompt(
                id=f"{purpose}-{step}-{group}-{member}",
                token_ids=token_ids,
                seed=derive_seed(self.seed, purpose, step, group, member),
                group=group,
            )
            for group, token_ids in enumerate(encoded)
            for member in range(num_generations)
        ]

    def save_tokenizer(self, folder: str) -> None:
        """Write the tokenizer into a policy folder."""
        self.tokenizer.save_pretrained(folder)

    def text(self, completion: Completion) -> str:
        """Decode a completion into the text that rewards and people read."""
        return decode_text(self.tokenizer, completion.token_ids)

    def sample(self, row: Row, prompt: Prompt, completion: Completion) -> Sample:
        """Make what the rewards score: text, token ids and the other columns of the prompt's row."""
        return Sample(
            prompt=row["prompt"],
            completion=self.text(completion),
            completion_ids=completion.token_ids,
            columns={name: value for name, value in row.items() if name not in TEXT_COLUMNS},
            group=prompt.group,
            unfinished=completion.trace.mask in completion.token_ids,
        )
