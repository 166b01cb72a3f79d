r"""The checkers themselves: does a text follow one instruction.

Every function is ``(text, **arguments) -> bool``, pure, and linear in the text. They reach the verdicts of the official
implementation; where its regular expression backtracks (``^\s*\*``, ``\[.*?\]``, ``<<.+>>``) the same matches are found
without one. Words of the data are searched as they are, never as patterns.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from redraft.rewards.library.instructions.language import count_capital_words, detect_language, sentences

_WORD = re.compile(r"\w+")
_STAR_BULLET = re.compile(r"^[^\S\n]*+\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*+-.*$", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_CHANGE = re.compile(r"\*.*\*")
_FIRST_WORD = re.compile(r"[^.,?!'\"]*")
_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}
_FENCES = ("```json", "```Json", "```JSON", "```")
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "less than": lambda found, wanted: found < wanted,
    "at least": lambda found, wanted: found >= wanted,
}


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    """Tell whether every keyword occurs, in any case, also inside a word."""
    return all(re.search(re.escape(keyword), text, re.IGNORECASE) for keyword in keywords)


def has_keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    """Tell whether the keyword occurs so many times, in any case, also inside a word."""
    found = len(re.findall(re.escape(keyword), text, re.IGNORECASE))
    return COMPARISONS[relation](found, frequency)


def has_no_forbidden_word(text: str, forbidden_words: Sequence[str]) -> bool:
    """No forbidden word occurs as a word of its own, in any case."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def has_letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Tell whether the character, a letter or not, occurs so many times in any case."""
    return COMPARISONS[let_relation](text.lower().count(letter.lower()), let_frequency)


def is_in_language(text: str, language: str) -> bool:
    """Tell whether the text is in this language; a text without any language, such as ``42``, is in none."""
    return detect_language(text) == language


def has_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """Tell whether the text has so many sentences."""
    found = len(sentences(text, at_most=num_sentences))
    return COMPARISONS[relation](found, num_sentences)


def has_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between ``***`` dividers; an empty one is allowed at either end only."""
    first, *inner = text.split("***")
    last = inner.pop() if inner else ""
    ends = [paragraph for paragraph in (first, last) if paragraph.strip()]
    return all(paragraph.strip() for paragraph in inner) and len(inner) + len(ends) == num_paragraphs


def has_words(text: str, num_words: int, relation: str) -> bool:
    """Tell whether the text has so many words."""
    return COMPARISONS[relation](len(_WORD.findall(text)), num_words)


def has_nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs between blank lines, and the n-th starts with the word.

    As in the official checker blank paragraphs do not count, but do take a place in the order.
    """
    paragraphs = text.split("\n\n")
    found = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    words = paragraphs[nth_paragraph - 1].split(maxsplit=1) if nth_paragraph <= found else []
    if not words or found != num_paragraphs:
        return False
    start = _FIRST_WORD.match(words[0].lstrip("'").lstrip('"'))
    return start is not None and start.group().lower() == first_word.lower()


def has_placeholders(text: str, num_placeholders: int) -> bool:
    """At least so many ``[placeholders]``, none over a line's end."""
    found = 0
    for line in text.split("\n"):
        position = line.find("[")
        while position >= 0 and (position := line.find("]", position)) >= 0:
            found += 1
            position = line.find("[", position)
    return found >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    """Tell whether the marker occurs, in any case; inside ``P.S.`` and ``P.P.S`` one space is allowed."""
    pattern = _POSTSCRIPTS.get(postscript_marker)
    text = text.lower()
    return postscript_marker.lower() in text if pattern is None else pattern.search(text) is not None


def has_bullets(text: str, num_bullets: int) -> bool:
    """Exactly so many lines that start with ``*`` or ``-``."""
    return len(_STAR_BULLET.findall(text)) + len(_DASH_BULLET.findall(text)) == num_bullets


def is_constrained(text: str) -> bool:
    """One of the three fixed answers occurs."""
    return any(option in text for option in _OPTIONS)


def has_highlights(text: str, num_highlights: int) -> bool:
    """At least so many ``*highlighted*`` spans that are not empty."""
    single = sum(bool(span.strip("*").strip()) for span in _HIGHLIGHT.findall(text))
    double = sum(bool(span[2:-2].strip()) for span in _DOUBLE_HIGHLIGHT.findall(text))
    return single + double >= num_highlights


def has_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings such as ``Section 1``."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def is_json(text: str) -> bool:
    """Tell whether the whole text is JSON, fenced or not."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # the latter for a text of 50,000 opening brackets
        return False
    return True


def has_title(text: str) -> bool:
    """Tell whether there is a ``<<title>>`` on one line that is not blank."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end >= start + 3 and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def has_two_responses(text: str) -> bool:
    """Two different responses between ``******``; an empty one is allowed at either end only."""
    first, *inner = (part.strip() for part in text.split("******"))
    last = inner.pop() if inner else ""
    answers = [answer for answer in (first, *inner, last) if answer]
    return all(inner) and len(answers) == 2 and answers[0] != answers[1]


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    """Tell whether the text begins with the request, word for word."""
    return text.strip().lower().startswith(prompt_to_repeat.lower())


def ends_with(text: str, end_phrase: str) -> bool:
    """Tell whether the text ends with the phrase, without quotation marks around the text."""
    return text.strip().strip('"').lower().endswith(end_phrase.lower())


def is_quoted(text: str) -> bool:
    """Tell whether the whole text is in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def has_capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words are in capital letters."""
    return COMPARISONS[capital_relation](count_capital_words(text), capital_frequency)


def is_capital_english(text: str) -> bool:
    """Tell whether the text is English without a small letter."""
    return text.isupper() and detect_language(text) == "en"


def is_lowercase_english(text: str) -> bool:
    """Tell whether the text is English without a capital letter."""
    return text.islower() and detect_language(text) == "en"


def has_no_comma(text: str) -> bool:
    """No comma anywhere."""
    return "," not in text


def has_key_sentences(text: str, key_sentences: Sequence[str], num_sentences: int) -> bool:
    """Exactly so many of the sentences occur as sentences of their own."""
    found = {" ".join(sentence.split()) for sentence in sentences(text)}
    return sum(" ".join(sentence.split()) in found for sentence in set(key_sentences)) == num_sentences


def shares_words(text: str, original_paragraph: str, low: int, high: int) -> bool:
    """Tell whether the number of words shared with the paragraph, repetitions counted, is within the limits."""
    shared = Counter(_WORD.findall(text.lower())) & Counter(_WORD.findall(original_paragraph.lower()))
    return low <= shared.total() <= high


def changes_marked_only(text: str, original_message: str) -> bool:
    """Only what stands between asterisks differs from the message."""
    kept, wanted = (_CHANGE.sub("", version).strip() for version in (text, original_message))
    return _CHANGE.search(text) is not None and kept == wanted


def has_start(text: str, starter: str) -> bool:
    """Some line starts with the phrase."""
    return any(line.lstrip().startswith(starter) for line in text.split("\n"))
