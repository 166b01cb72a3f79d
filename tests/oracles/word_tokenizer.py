"""A real tokenizer of a few words."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from redraft.rollout.special_ids import TURN_END

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}bot{% endif %}"
)
WORDS = ["<pad>", "<|mask|>", "<|endoftext|>", "user", "bot", "hello", "world", TURN_END, "assistant"]


def make_tokenizer(template: str | None = TEMPLATE, mask: str | None = "<|mask|>", eos: str | None = "<|endoftext|>"):
    """Its ids are the places in `WORDS`; pad, mask, end of text and end of turn are control tokens."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "<pad>", "eos_token": eos, "mask_token": mask}
    specials = {name: token for name, token in named.items() if token}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=[TURN_END], **specials)
    tokenizer.chat_template = template
    return tokenizer
