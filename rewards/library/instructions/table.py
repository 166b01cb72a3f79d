"""The table of instructions, and one instruction checked strictly or loosely."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from redraft.rewards.library.instructions import checkers
from redraft.rewards.library.instructions.arguments import (
    Parser,
    count,
    language,
    letter,
    parse,
    phrase,
    phrases,
    position,
    relation,
)
from redraft.rewards.result import RewardError
from redraft.words import guess_and_valid

Follows = Callable[[str], bool]


@dataclass(frozen=True)
class Instruction:
    """A checker ``(text, **arguments) -> bool``, and the arguments that the data has to give."""

    checker: Callable[..., bool]
    arguments: Mapping[str, Parser] = field(default_factory=dict)


IFEVAL: dict[str, Instruction] = {
    "keywords:existence": Instruction(checkers.has_keywords, {"keywords": phrases}),
    "keywords:frequency": Instruction(
        checkers.has_keyword_frequency, {"keyword": phrase, "frequency": count, "relation": relation}
    ),
    "keywords:forbidden_words": Instruction(checkers.has_no_forbidden_word, {"forbidden_words": phrases}),
    "keywords:letter_frequency": Instruction(
        checkers.has_letter_frequency, {"letter": letter, "let_frequency": count, "let_relation": relation}
    ),
    "language:response_language": Instruction(checkers.is_in_language, {"language": language}),
    "length_constraints:number_sentences": Instruction(
        checkers.has_sentences, {"num_sentences": count, "relation": relation}
    ),
    "length_constraints:number_paragraphs": Instruction(checkers.has_paragraphs, {"num_paragraphs": count}),
    "length_constraints:number_words": Instruction(checkers.has_words, {"num_words": count, "relation": relation}),
    "length_constraints:nth_paragraph_first_word": Instruction(
        checkers.has_nth_paragraph, {"num_paragraphs": count, "nth_paragraph": position, "first_word": phrase}
    ),
    "detectable_content:number_placeholders": Instruction(checkers.has_placeholders, {"num_placeholders": count}),
    "detectable_content:postscript": Instruction(checkers.has_postscript, {"postscript_marker": phrase}),
    "detectable_format:number_bullet_lists": Instruction(checkers.has_bullets, {"num_bullets": count}),
    "detectable_format:constrained_response": Instruction(checkers.is_constrained),
    "detectable_format:number_highlighted_sections": Instruction(checkers.has_highlights, {"num_highlights": count}),
    "detectable_format:multiple_sections": Instruction(
        checkers.has_sections, {"section_spliter": phrase, "num_sections": count}
    ),
    "detectable_format:json_format": Instruction(checkers.is_json),
    "detectable_format:title": Instruction(checkers.has_title),
    "combination:two_responses": Instruction(checkers.has_two_responses),
    "combination:repeat_prompt": Instruction(checkers.repeats_prompt, {"prompt_to_repeat": phrase}),
    "startend:end_checker": Instruction(checkers.ends_with, {"end_phrase": phrase}),
    "startend:quotation": Instruction(checkers.is_quoted),
    "change_case:capital_word_frequency": Instruction(
        checkers.has_capital_words, {"capital_frequency": count, "capital_relation": relation}
    ),
    "change_case:english_capital": Instruction(checkers.is_capital_english),
    "change_case:english_lowercase": Instruction(checkers.is_lowercase_english),
    "punctuation:no_comma": Instruction(checkers.has_no_comma),
}
"""The 25 instructions of the benchmark."""

FURTHER: dict[str, Instruction] = {
    "keywords:key_sentences": Instruction(
        checkers.has_key_sentences, {"key_sentences": phrases, "num_sentences": count}
    ),
    "detectable_content:rephrase_paragraph": Instruction(
        checkers.shares_words, {"original_paragraph": phrase, "low": count, "high": count}
    ),
    "detectable_format:rephrase": Instruction(checkers.changes_marked_only, {"original_message": phrase}),
    "multi-turn:constrained_start": Instruction(checkers.has_start, {"starter": phrase}),
}
"""Four more that the official code has and tests, but that no row of the benchmark uses."""

INSTRUCTIONS = IFEVAL | FURTHER


def bind(instruction_id: object, kwargs: object) -> Follows:
    """Make the check of one instruction with its arguments: a function from a text to whether it follows.

    Args:
        instruction_id: A name of `INSTRUCTIONS`.
        kwargs: Its arguments, as the data gives them; those that are None count as absent.

    Raises:
        RewardError: The name is unknown, or arguments are missing, unknown or unusable.
    """
    instruction = INSTRUCTIONS.get(instruction_id) if isinstance(instruction_id, str) else None
    if instruction is None:
        known = guess_and_valid(instruction_id, INSTRUCTIONS, cutoff=0.6)
        raise RewardError(f"no instruction is named {instruction_id!r:.80}; {known}")
    try:
        return functools.partial(instruction.checker, **parse(instruction.arguments, kwargs))
    except ValueError as error:
        raise RewardError(f"{instruction_id}: {error}") from error


def follows(bound: Follows, text: str) -> bool:
    """Check strictly; a blank text follows no instruction."""
    return bool(text.strip()) and bound(text)


def follows_loosely(bound: Follows, text: str) -> bool:
    """Check loosely: some version follows, without the first line, the last or both, with or without asterisks."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    versions = dict.fromkeys([*cut, *(version.replace("*", "") for version in cut)])
    return any(follows(bound, version) for version in versions)
