"""A request to the decoder: a prompt, and how to complete it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from redraft.rollout.blocks import padded_length
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Prompt


@dataclass(frozen=True)
class Request:
    """A prompt and how to complete it."""

    prompt: Prompt
    config: DecodeConfig

    def __str__(self) -> str:
        """Name the request and its lengths."""
        return (
            f"prompt {self.prompt.id!r} has {len(self.prompt.token_ids)} tokens, max_completion_length is"
            f" {self.config.max_completion_length} and blocks have {self.config.block_length}"
        )

    @property
    def length(self) -> int:
        """Tokens of prompt and longest completion, in whole blocks."""
        return padded_length(len(self.prompt.token_ids) + self.config.max_completion_length, self.config.block_length)

    @property
    def room(self) -> int:
        """Tokens that pages are needed for; with an editing window a spare block too, see `layout.lay_out`."""
        return self.length + (self.config.block_length if self.config.editing_window > 1 else 0)

    def check(self, max_length: int, vocab_size: int) -> None:
        """Make sure that a policy can take the request.

        Raises:
            ValueError: The request is longer than `max_length`, or a token is not below `vocab_size`.
        """
        if self.length > max_length:
            raise ValueError(f"{self}; it needs {self.length} positions, but the policy has {max_length}")
        for token in self.prompt.token_ids:
            if not 0 <= token < vocab_size:
                raise ValueError(f"prompt {self.prompt.id!r} holds token id {token}; valid: 0 to {vocab_size - 1}")


def make_requests(prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig]) -> list[Request]:
    """Give every prompt its config: one for all, or one per prompt.

    Raises:
        ValueError: Their numbers differ.
    """
    configs = [config] * len(prompts) if isinstance(config, DecodeConfig) else config
    if len(configs) != len(prompts):
        raise ValueError(f"got {len(configs)} decode configs for {len(prompts)} prompts; give one, or one per prompt")
    return [Request(prompt, own) for prompt, own in zip(prompts, configs, strict=True)]


def name_requests(requests: Iterable[Request]) -> str:
    """Name requests in an error: their number and the first few ids."""
    ids = [request.prompt.id for request in requests]
    return f"{len(ids)} requests ({', '.join(islice(ids, 8))}{', ...' if len(ids) > 8 else ''})"
