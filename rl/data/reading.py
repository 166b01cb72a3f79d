"""Read texts as one policy does: into token ids that it knows and has room for. Warn of what is odd in a data set."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import located
from redraft.rl.data.rows import Row, place_of
from redraft.rl.models.hub import find_first
from redraft.rl.models.registry import PolicyLimits, find_text_side, load_text_side, plan_policy, policy_limits
from redraft.rollout.blocks import padded_length
from redraft.rollout.chat import Tokenizer, count_controls, encode_prompt, encode_text, known_controls
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import SpecialTokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """The text side of a policy: its tokenizer, its special ids and its limits.

    Attributes:
        tokenizer: None where the policy's folder has none; then the policy reads token ids only.
    """

    tokenizer: Tokenizer | None
    tokens: SpecialTokens
    limits: PolicyLimits

    @classmethod
    def of(cls, path: str, ids_only: bool = False) -> "Reader":
        """Load the text side of a policy folder; with `ids_only` it may lack a tokenizer."""
        tokenizer, tokens = find_text_side(path) if ids_only else load_text_side(path)
        return cls(tokenizer, tokens, policy_limits(path))

    @classmethod
    def of_first(cls, config: RunConfig, made: Path | None = None) -> "Reader":
        """Load the text side of the policy that training starts from: `made` if it is there, else the recipe's `model`.

        Raises:
            FileNotFoundError: `model.path` names neither a folder nor a model on the hub.
            HubError: The hub does not give its files.
        """
        if made and made.is_dir():
            return cls.of(str(made))
        if config.model.path is None:
            assert config.model.init is not None
            return cls(*plan_policy(config.model.init, config.rollout.decode.block_length))
        return cls.of(str(find_first(config.model.path, config.model.revision).folder))

    def read_prompt(self, prompt: Any, what: str = "the prompt") -> list[int]:
        """Encode a prompt, text or chat messages.

        Raises:
            ValueError: It cannot be encoded, or holds the mask token or a token that the policy lacks.
        """
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer, so text cannot be read; give prompt_ids")
        return self.check_ids(encode_prompt(self.tokenizer, prompt), what)

    def read_answer(self, text: str) -> list[int]:
        """Encode the completion of a demonstration; raises as `check_ids` does."""
        return self.check_ids(encode_text(self.tokenizer, text), "`completion`")

    def check_ids(self, ids: list[int], what: str) -> list[int]:
        """Return `ids` if the policy can read all of them.

        Raises:
            ValueError: One is the mask token, or one that the policy lacks.
        """
        if self.tokens.mask in ids:
            raise ValueError(
                f"{what} contains the mask token{self._spelling(self.tokens.mask)}, id {self.tokens.mask}: it marks"
                " what the policy has to fill, and cannot be read or learned; take it out"
            )
        size = self.limits.vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise ValueError(
                    f"token id {token}{self._spelling(token)} is not in 0 to {size - 1}: {what} has a token that the"
                    " policy lacks; use the policy's own tokenizer, or resize its embedding and head for added tokens"
                )
        return ids

    def check_room(self, num_tokens: int, decode: DecodeConfig) -> None:
        """Refuse a prompt of `num_tokens` that leaves no room for a whole completion.

        Raises:
            ValueError: It is too long.
        """
        needed = padded_length(num_tokens + decode.max_completion_length, decode.block_length)
        if needed > self.limits.max_positions:
            raise ValueError(
                f"the prompt has {num_tokens} tokens; with max_completion_length {decode.max_completion_length} in"
                f" whole blocks of {decode.block_length} it needs {needed} positions, but the policy has"
                f" {self.limits.max_positions}"
            )

    def _spelling(self, token: int) -> str:
        if self.tokenizer is None or not 0 <= token < len(self.tokenizer):
            return ""
        return f" {self.tokenizer.convert_ids_to_tokens(token)!r}"


class Survey:
    """Count what is odd in the texts of a data set without being wrong, and warn once at the end.

    Two things are odd. Texts that spell control tokens: in a text that went through a chat template before they are
    meant, in any other a user's words now steer the policy. And characters that the tokenizer does not know.
    """

    def __init__(self, tokenizer: Tokenizer | None, source: str) -> None:
        self.tokenizer, self.source = tokenizer, source
        self.read, self.kept, self.first = Counter[str](), Counter[str](), dict[str, str]()
        self.tokens = self.unknown = 0
        self.first_unknown = ""

    def see(self, place: str, text: Any, ids: Sequence[int]) -> None:
        """Count one text or chat and its token ids."""
        if self.tokenizer is None:
            return
        unknown = ids.count(self.tokenizer.unk_token_id)
        self.tokens, self.unknown = self.tokens + len(ids), self.unknown + unknown
        self.first_unknown = self.first_unknown or (place if unknown else "")
        turns = text if isinstance(text, list) else [{"role": "assistant", "content": text}]
        for turn in turns:
            counter = self.read if turn["role"] == "assistant" else self.kept
            for token, count in count_controls(str(turn.get("content")), known_controls(self.tokenizer)).items():
                counter[token] += count
                self.first.setdefault(token, place)

    def tell(self) -> None:
        """Log one warning for each kind of oddity that was seen."""
        for found, what in (
            (self.read, "are read as control tokens, as the template's own are; in a user's message they stay text"),
            (self.kept, "are spelled in messages, and stay text there"),
        ):
            if found:
                token = next(iter(found))
                logger.warning(
                    "%s: %d control tokens %s (first: %s in %s)",
                    *(self.source, found.total(), what, token, self.first[token]),
                )
        if self.unknown:
            share = f"{self.unknown / self.tokens:.1%}"
            logger.warning(
                "%s: %s of the tokens (%d of %d) are unknown to the tokenizer, all alike to the policy (first: %s)",
                *(self.source, share, self.unknown, self.tokens, self.first_unknown),
            )


def check_prompts(rows: Iterable[Row], reader: Reader, decode: DecodeConfig, source: str) -> None:
    """Refuse rows whose prompts the policy cannot answer, before a run starts rather than when it draws them.

    Args:
        rows: Checked rows; each distinct prompt is encoded once.
        reader: The policy's text side.
        decode: Gives completion and block length.
        source: What errors call the rows, see `rl.data.load.source_name`.

    Raises:
        DataError: A prompt cannot be encoded, is empty, is too long, or holds tokens that the policy cannot read.
    """
    survey, seen = Survey(reader.tokenizer, source), set[str]()
    for number, row in enumerate(rows, start=1):
        prompt = row["prompt"]
        if repr(prompt) in seen:
            continue
        seen.add(repr(prompt))
        place = place_of(row, source, number)
        with located(place):
            if not prompt:
                raise ValueError("`prompt` is empty: there is nothing to answer; leave the row out")
            ids = reader.read_prompt(prompt)
            reader.check_room(len(ids), decode)
        survey.see(place, prompt, ids)
    survey.tell()
