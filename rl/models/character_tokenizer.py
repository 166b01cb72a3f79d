"""A character tokenizer for policies made from scratch, in the ordinary Hugging Face form."""

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT, ROLE_END, MASK, UNKNOWN = "<|endoftext|>", "<|role_end|>", "<|mask|>", "<|unk|>"
CHARACTERS = sorted(set(string.printable) - set("\t\r\x0b\x0c"))
VOCABULARY = (END_OF_TEXT, ROLE_END, MASK, UNKNOWN, *CHARACTERS)


def build_character_tokenizer() -> "PreTrainedTokenizerFast":
    """Build a tokenizer with one token per printable ASCII character, plus LLaDA2's end, role end and mask tokens."""
    # Here and not above: transformers takes a second to import, and rollout actors need no tokenizer.
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    # A dot matches no newline: runs of newlines would stay one piece, for which there is no token.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        unk_token=UNKNOWN,
        additional_special_tokens=[ROLE_END],
        clean_up_tokenization_spaces=False,
    )
