"""The fenced code blocks of a Markdown text: CommonMark's rules, and what models write that those rules do not foresee.

Beyond CommonMark:

* A fence may stand at the end of a line of prose if it is marked as Python.
* Code may be indented less than its list item.
* A closing fence may end the last line of code, or have text after it.
* A block may end where the next begins.
* A fence that is part of the code, inside a string, does not close the block.

The last four depend on whether the code compiles. Apart from a fixed number of attempts to compile, the time is linear
in the text.
"""

import bisect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MOST_ATTEMPTS = 16  # of compiling, in one text
_MOST_ENDS = 4  # of one block, of each kind
_MOST_NESTED = 4
_ITEM = r"(?:[-+*]|\d{1,9}[.)])[ \t]++"
_OPENING = re.compile(rf"((?:[ \t]|{_ITEM})*+)(`{{3,}}+(?=[^`]*+$)|~{{3,}}+)(.*+)")
_OPENING_AFTER_TEXT = re.compile(r"(?<=[^`~])(`{3,}+)[ \t]*+((?:python|py)[\d.]*+)[ \t]*+$", re.IGNORECASE)
_CLOSING = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)[ \t]*+$")
_CLOSING_AFTER_CODE = re.compile(r"(?<=[^`~])(`{3,}+|~{3,}+)[ \t]*+$")
_CLOSING_BEFORE_TEXT = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)")
_ONE_LINE = re.compile(r"[ \t]*+(`{3,}+)((?:python|py)3?(?=[ \t])|)([^`]++)\1[ \t]*+$", re.IGNORECASE)
_LANGUAGE_LINE = re.compile(r"\A[ \t]*(?:python|py)3?[ \t]*\n", re.IGNORECASE)
_MARKDOWN = re.compile(r"[ \t]*(?:markdown|md)\b", re.IGNORECASE)
_QUOTED = re.compile(r" {0,3}>")
_PYTHON = re.compile(r"[{\s]*+[.]?(?:i?python|pypy|py)[\d.]*+(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        info: What stands after the opening fence.
        code: The content, without the indentation of its container.
    """

    info: str
    code: str

    @classmethod
    def of(cls, info: str, code: str) -> "Block":
        """Make a block; a first line that is the word ``python`` belongs after the fence."""
        word = None if info.strip() else _LANGUAGE_LINE.match(code)
        return cls(word[0], code[word.end() :]) if word else cls(info, code)

    @property
    def tier(self) -> int:
        """0 for a block marked as Python, 1 for one without a mark, 2 for any other."""
        return 0 if _PYTHON.match(self.info) else 2 if self.info.strip() else 1


def fenced_blocks(text: str, compiles: Callable[[str], bool]) -> list[Block]:
    """Find all blocks, in order; the last may be open at the end of the text.

    Args:
        text: Lines end with a newline alone.
        compiles: Whether a text is Python.
    """
    return list(_Scanner(text.removesuffix("\n").split("\n"), _Attempts(compiles)).blocks(0))


class _Attempts:
    """Tells whether a text compiles, a fixed number of times; after these it says no."""

    def __init__(self, compiles: Callable[[str], bool]) -> None:
        self._compiles, self._left = compiles, _MOST_ATTEMPTS

    def __call__(self, code: str) -> bool:
        self._left -= 1
        return not self.used_up and self._compiles(code)

    @property
    def used_up(self) -> bool:
        return self._left < 0


@dataclass(frozen=True)
class _Fence:
    mark: str
    indent: int
    info: str

    def closed_by(self, mark: str, indent: int) -> bool:
        return mark[0] == self.mark[0] and len(mark) >= len(self.mark) and indent <= self.indent + 3


class _Scanner:
    def __init__(self, lines: list[str], attempts: _Attempts) -> None:
        self._lines, self._attempts = lines, attempts
        self._closings = [(row, found) for row, line in enumerate(lines) if (found := _CLOSING.match(line))]
        self._late = [(row, *found) for row, line in enumerate(lines) if (found := _late_closing(line))]

    def blocks(self, nested: int) -> Iterator[Block]:
        at = 0
        while at < len(self._lines):
            if nested < _MOST_NESTED and _QUOTED.match(self._lines[at]):
                end = at
                while end < len(self._lines) and _QUOTED.match(self._lines[end]):
                    end += 1
                inside = [re.sub(r"^ {0,3}> ?", "", line) for line in self._lines[at:end]]
                yield from _Scanner(inside, self._attempts).blocks(nested + 1)
                at = end
                continue
            one_line = _ONE_LINE.match(self._lines[at])
            fence = None if one_line or self._doubled(at) else _opening(self._lines[at])
            at += 1
            if one_line is not None:
                yield Block(one_line[2], one_line[3].strip() + "\n")
            elif fence is not None:
                block, at = self._block(fence, at)
                yield from self._inner(block, nested) or [block]

    def _inner(self, block: Block, nested: int) -> list[Block]:
        """Return the blocks in a block of Markdown, which is an answer within a frame."""
        if nested == _MOST_NESTED or not _MARKDOWN.match(block.info):
            return []
        return list(_Scanner(block.code.split("\n"), self._attempts).blocks(nested + 1))

    def _doubled(self, row: int) -> bool:
        """Tell whether the fence in a row is only the frame of one in the next row that is marked as Python."""
        if row + 1 == len(self._lines) or not _CLOSING.match(self._lines[row]):
            return False
        inner = _opening(self._lines[row + 1])
        return inner is not None and Block(inner.info, "").tier == 0

    def _block(self, fence: _Fence, start: int) -> tuple[Block, int]:
        """Return the block that begins here, and the row after it."""
        ends = self._ends(fence, start)
        row, last = next(ends)
        first = Block.of(fence.info, self._content(fence, start, row, last))
        if first.tier == 2 or self._attempts(first.code) or self._attempts.used_up:
            return first, row + 1
        for end, last in ends:
            code = self._content(fence, start, end, last)
            if code.strip() and self._attempts(code):
                return Block.of(fence.info, code), end if _opening(self._lines[end]) else end + 1
        return first, row + 1

    def _ends(self, fence: _Fence, start: int) -> Iterator[tuple[int, str]]:
        """Yield rows where the block may end, with what of that row belongs to it; the most likely first."""
        at = bisect.bisect_left(self._closings, start, key=lambda closing: closing[0])
        proper = (row for row, found in self._closings[at : at + 16] if fence.closed_by(found[2], _columns(found[1])))
        first = next(proper, len(self._lines))
        yield first, ""
        yield from ((row, "") for row in itertools.islice(proper, _MOST_ENDS - 1))
        at = bisect.bisect_left(self._late, start, key=lambda closing: closing[0])
        for row, mark, last in self._late[at : at + _MOST_ENDS]:
            if fence.closed_by(mark, 0):
                yield row, last

    def _content(self, fence: _Fence, start: int, end: int, last: str) -> str:
        lines = self._lines[start:end] + ([last] if last else [])
        if not fence.indent:
            return _joined(lines)
        common = min((_columns(line) for line in lines if line.strip()), default=0)
        even = _joined([_without(line, min(common, fence.indent)) for line in lines])
        if common >= fence.indent or self._attempts(even):
            return even
        return _joined([_without(line, fence.indent) for line in lines])


def _late_closing(line: str) -> tuple[str, str] | None:
    """Find a fence that shares its line with other text; return it and what stands before it."""
    found = _CLOSING_AFTER_CODE.search(line)
    if found:
        return found[1], line[: found.start()]
    found = _CLOSING_BEFORE_TEXT.match(line)
    return (found[2], "") if found and not _CLOSING.match(line) else None


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _opening(line: str) -> _Fence | None:
    found = _OPENING.match(line)
    if found:
        return _Fence(found[2], _columns(found[1], everything=True), found[3])
    found = _OPENING_AFTER_TEXT.search(line)
    return _Fence(found[1], 0, found[2]) if found else None


def _columns(line: str, everything: bool = False) -> int:
    """Count the columns of the indentation, or of all characters; a tab leads to the next multiple of four."""
    column = 0
    for character in line:
        if character == "\t":
            column += 4 - column % 4
        elif character == " " or everything:
            column += 1
        else:
            break
    return column


def _without(line: str, columns: int) -> str:
    """Return the line without that many columns of indentation, or without all that it has."""
    column = at = 0
    while at < len(line) and line[at] in " \t" and column < columns:
        column += 1 if line[at] == " " else 4 - column % 4
        at += 1
    return " " * max(column - columns, 0) + line[at:]
