"""From a completion to the candidate's source texts: which of its code is the solution.

* Where the names under test are known, the solution is the last block that defines one, by ``def`` or ``class`` before
  an assignment before an import. A block marked as Python is preferred to one without a mark, and that to any other.
* A program is the last block that does something and reads its input on its own, else with the blocks it needs, else
  the last that does something.
* What the solution uses and other blocks define (imports, helpers) is run before it: their definitions only.
* Where no block defines the name: a function body that continues the prompt's code, then code that stands in the text
  without fences. A text that is Python as a whole is its own only block.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence

from redraft.rewards.library.code.blocks import Block, fenced_blocks
from redraft.rewards.library.code.module import Module, compiles

_CODE_BEGINS = re.compile(r"(?:from|import|def|class|async def)\s+\w|@\w|[A-Za-z_]\w*\s*=[^=]")
_TAGS = (("<answer>", "</answer>"), ("[BEGIN]", "[DONE]"))
_MOST_BEGINNINGS, _MOST_CUTS = 6, 8  # attempts to find code in prose
_MOST_BLOCKS = 64  # the last ones of a text


def find_code(region: str, context: str | None, names: Sequence[str]) -> list[str] | None:
    """Choose the source texts to execute, in order, in one module.

    Args:
        region: The part of a completion that may hold the answer.
        context: The code that the prompt gave; it is executed first, for its imports and helpers.
        names: The names that the code has to define; none for a program.

    Returns:
        The texts; None where there is no code.
    """
    region = region.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    for text in dict.fromkeys([_tagged(region), region]):
        found = _solution(text, names) or _continued(text, context, names) or _in_prose(text, names)
        if found:
            break
    else:
        found = _last_block(region)
    if found is None or context is None or found[0].startswith(context) or not compiles(context):
        return found
    return [context, *found]


def prompt_code(prompt: object, entry_point: str | None) -> str | None:
    """Return the code in a prompt: the prompt itself, or the last fenced block of its last message.

    Only where it begins the function under test, ``def entry_point(``; the rest of a prompt is not code.
    """
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content")
    if not isinstance(prompt, str) or entry_point is None:
        return None
    start = re.compile(rf"^def\s+{re.escape(entry_point)}\s*\(", re.MULTILINE)
    blocks = sorted(fenced_blocks(prompt.replace("\r\n", "\n"), compiles), key=lambda block: -block.tier)
    for text in [*(block.code for block in blocks[-1:]), prompt]:
        if start.search(text):
            return next((code for code in (text, f"{text}\n    pass\n") if compiles(code)), None)
    return None


def _tagged(text: str) -> str:
    """Return what stands between the last answer tags, or MBPP's; everything where there are none."""
    for opening, closing in _TAGS:
        before, closed, _ = text.rpartition(closing)
        _, opened, content = before.rpartition(opening)
        if closed and (opened or opening == "[BEGIN]"):  # [BEGIN] is often the end of the prompt
            return content
    return text


def _solution(text: str, names: Sequence[str]) -> list[str] | None:
    """Return the block or blocks that are the solution; None where none can be."""
    whole = Module(text)
    if whole.valid and text.strip():
        blocks = [(0, whole)] if not names or any(map(whole.defines, names)) else []
    else:
        blocks = [(block.tier, Module(block.code)) for block in _blocks(text)]
    chosen = _defining(blocks, names) if names else _program(blocks)
    return _with_helpers(chosen, [module for tier, module in blocks if tier < 2]) if chosen else None


@functools.lru_cache(maxsize=4)
def _blocks(text: str) -> list[Block]:
    return [block for block in fenced_blocks(text, compiles) if block.code.strip()][-_MOST_BLOCKS:]


def _defining(blocks: list[tuple[int, Module]], names: Sequence[str]) -> list[Module]:
    """Return for each name the block that defines it best; in the order of the text, each block once."""
    chosen: set[int] = set()
    for name in names:
        ranked = [(module.defines(name), -tier, row) for row, (tier, module) in enumerate(blocks)]
        best = max(ranked, default=(0, 0, 0))
        if best[0]:
            chosen.add(best[2])
    return [blocks[row][1] for row in sorted(chosen)]


def _program(blocks: list[tuple[int, Module]]) -> list[Module]:
    """Choose the block that is the program: the last that reads its input, alone or with helpers, else that acts."""
    tier = min((tier for tier, _ in blocks), default=0)
    modules = [module for level, module in blocks if level == tier]
    everything = [module for level, module in blocks if level < 2]

    def reads_alone(module: Module) -> bool:
        return module.reads and not _helpers([module], everything)

    def reads_with_helpers(module: Module) -> bool:
        return any(part.reads for part in [module, *_helpers([module], everything)])

    acting = [module for module in reversed(modules) if module.acts]
    for fits in (reads_alone, reads_with_helpers):
        found = next(filter(fits, acting), None)
        if found is not None:
            return [found]
    return acting[:1] or modules[-1:]


def _helpers(chosen: list[Module], modules: list[Module]) -> list[Module]:
    """Return other blocks that define what these need, in the order of the text.

    For a name that several define it is the nearest before the chosen ones, else the next after them.
    """
    used = set(chosen)
    missing = set().union(*(module.needs for module in chosen))
    last = max((modules.index(module) for module in chosen if module in modules), default=len(modules))
    order = [*reversed(modules[:last]), *modules[last + 1 :]]
    while missing:
        name = missing.pop()
        if any(module.defines(name) for module in used):
            continue
        found = next((module for module in order if module.valid and module.defines(name)), None)
        if found is not None:
            used.add(found)
            missing |= found.needs
    return [module for module in modules if module in used and module not in chosen]


def _with_helpers(chosen: list[Module], modules: list[Module]) -> list[str]:
    helpers = [module.definitions() for module in _helpers(chosen, modules)]
    return [*helpers, *(module.code for module in chosen)]


def _last_block(text: str) -> list[str] | None:
    """Return the last block although it does not look like the solution; without blocks, a text that is Python."""
    blocks = sorted(_blocks(text), key=lambda block: -block.tier)
    if blocks:
        return [blocks[-1].code]
    return [text] if text.strip() and compiles(text) else None


def _continued(text: str, context: str | None, names: Sequence[str]) -> list[str] | None:
    """Return the context with a function body after it; what follows the body, code or prose, is cut off."""
    if context is None or not names:
        return None
    bodies = [text, *(block.code for block in _blocks(text)[-1:] if block.tier < 2)]
    step, size = _indentation(context), Module(context).size(names[0])
    shifts: list[Callable[[str], str]] = [
        lambda body: body,
        lambda body: step + body.lstrip(" \t"),  # only the first line has lost its indentation
        lambda body: "\n".join(step + line for line in body.split("\n")),
    ]
    for shift in shifts:
        for body in bodies:
            for part in _inside(shift(body)):
                module = Module(context + part)
                if module.valid and module.size(names[0]) > size:  # the function under test has got a body
                    return [module.code]
    return None


def _inside(body: str) -> Iterator[str]:
    """Yield a function's body with everything after it, then up to the first line outside."""
    yield body
    lines = body.split("\n")
    outside = next((n for n, line in enumerate(lines) if n and line[:1] not in ("", " ", "\t")), len(lines))
    if outside < len(lines):
        yield "\n".join(lines[:outside])


def _indentation(context: str) -> str:
    last = context.rstrip().rpartition("\n")[2]
    return last[: len(last) - len(last.lstrip())] or "    "


def _in_prose(text: str, names: Sequence[str]) -> list[str] | None:
    """Return code that stands among prose without fences: from a line that looks like code to one that cannot be."""
    for lines in _beginnings(text):
        for _ in range(_MOST_CUTS):
            module = Module("\n".join(lines))
            if module.valid:
                if any(map(module.defines, names)) if names else module.acts:
                    return [module.code]
                break
            lines = lines[: module.broken_at]
            if not lines:
                break
    return None


def _beginnings(text: str) -> Iterator[list[str]]:
    lines = text.split("\n")
    rows = [row for row, line in enumerate(lines) if row == 0 or _CODE_BEGINS.match(line)]
    return (lines[row:] for row in rows[:_MOST_BEGINNINGS])
