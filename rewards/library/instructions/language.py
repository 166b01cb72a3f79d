"""What needs a language library: the language of a text, its sentences and its fully capital words.

No data is downloaded and no global state is touched: langdetect gets a factory and a seed of its own, and nltk's two
tokenizers run without their trained models. In place of the sentence model stand the common English abbreviations and
the words after them that start a sentence, which agrees with that model on all but a few texts in a hundred.
"""

import functools
import itertools
import re
import threading
from typing import Any

_FACTORY_LOCK = threading.Lock()
_SPACES = re.compile(r"\s+")
_INITIALISM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_MID_LOWER = 1 << 5  # Punkt's mark of a word that is written small inside sentences

ABBREVIATIONS = """
    dr mr mrs ms messrs prof rev hon st jr sr gen col lt maj sgt capt cmdr adm gov sen reps sens rep
    inc ltd co corp cos bros cie dept univ
    vs etc cf al approx vol fig figs
    jan feb mar apr aug sep sept oct nov dec tues wed thu thurs fri
    ave blvd rd mt ft mg yr
    ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis
    ph.d d c e f g h k l m n p r s t v w
"""
"""What ends in a full stop without ending a sentence, besides initialisms: titles, firms, months, places, units."""

POSTSCRIPTS = {"p.s", "p.p.s"}
"""Initialisms that stand alone before a sentence: the trained model ends one after them."""

SMALL_WORDS = """
    the this these those there here it he they her your but so yet nor if when while since although though in into
    without under between through were does which whom thus hence therefore however moreover finally some many most such
    both either neither even i i'm i'll i've it's he's there's they're please remember note still always yes okay
    instead according together despite unlike given someone nothing sometimes yesterday tomorrow try think ask
"""
"""Words with a capital letter only where a sentence starts: after an abbreviation, an ellipsis or an initial they do.

Only such words as the trained model knows for it: "at 5 p.m. She left" is one sentence by that model.
"""


def detect_language(text: str) -> str | None:
    """Detect the most likely language, as a code of langdetect; None where the text has no features of any."""
    from langdetect import LangDetectException

    detector = _language_factory().create()
    detector.append(text)
    try:
        return detector.detect()
    except LangDetectException:
        return None


def languages() -> list[str]:
    """Return the codes of all languages that langdetect can detect."""
    return sorted(_language_factory().get_lang_list())


def sentences(text: str, at_most: int | None = None) -> list[str]:
    """Split a text into sentences, by Punkt without a trained model.

    Args:
        text: Any text.
        at_most: Stop after this many; a text of 50,000 full stops is not worth reading to its end.
    """
    spans = itertools.islice(_sentence_tokenizer().span_tokenize(text), at_most)
    return [text[start:end] for start, end in spans]


def count_capital_words(text: str) -> int:
    """Number of words in capital letters only, as nltk's word tokenizer cuts words."""
    # Runs of white space are one space first: some of the tokenizer's patterns look at every split of a run.
    return sum(word.isupper() for word in _word_tokenizer().tokenize(_SPACES.sub(" ", text)))


def _language_factory() -> Any:
    """Return the one factory of this process; the lock keeps two threads from filling it at once."""
    with _FACTORY_LOCK:
        return _loaded_language_factory()


@functools.cache
def _loaded_language_factory() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.set_seed(0)  # langdetect samples; without a seed short texts change their language from call to call
    factory.load_profile(PROFILES_DIRECTORY)
    return factory


class _Abbreviations(set[str]):
    """The words of a list, and everything of the shape ``u.s`` or ``a.m``, as Punkt asks for it: without final stop."""

    def __contains__(self, word: object) -> bool:
        if super().__contains__(word):
            return True
        return isinstance(word, str) and word not in POSTSCRIPTS and _INITIALISM.fullmatch(word) is not None


@functools.cache
def _sentence_tokenizer() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktToken

    class Token(PunktToken):
        """Only a capital letter is an initial: without a model "it is in o. Please stay" would be one sentence."""

        __slots__ = ()

        @property
        def is_initial(self) -> bool:
            return bool(super().is_initial) and self.tok[0].isupper()

    parameters = PunktParameters()
    parameters.abbrev_types = _Abbreviations(ABBREVIATIONS.split())
    for word in SMALL_WORDS.split():
        parameters.add_ortho_context(word, _MID_LOWER)
    tokenizer = PunktSentenceTokenizer(token_cls=Token)
    tokenizer._params = parameters  # the constructor takes a text to learn from, or parameters that it copies
    return tokenizer


@functools.cache
def _word_tokenizer() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
