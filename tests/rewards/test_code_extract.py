import subprocess
import sys

import pytest

from conftest import ROOT
from redraft.rewards.library.code.extract import find_code, prompt_code

PROMPT = 'from typing import List\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n'
BODY = "    return 2 * x\n"
WHOLE = "def double(x):\n    return x + x\n"


def run(sources, name="double"):
    namespace = {}
    for source in sources:
        exec(source, namespace)
    return namespace[name]


def test_the_last_block_marked_as_python_counts():
    text = f"```python\nx = 1\n```\nbetter:\n```py\n{WHOLE}```\nwhich prints\n```\n42\n```\n"
    assert find_code(text, None, ()) == [WHOLE]


def test_without_a_marked_block_the_last_block_counts():
    assert find_code(f"```\n1\n```\n\n```\n{WHOLE}```", None, ()) == [WHOLE]


def test_a_block_that_was_cut_short_counts_up_to_its_end():
    assert find_code(f"Sure:\n```python\n{WHOLE}", None, ()) == [WHOLE]


def test_a_text_without_blocks_counts_where_all_of_it_is_code():
    assert find_code(WHOLE, None, ()) == [WHOLE]
    assert find_code(f"I would write this:\n{WHOLE}", None, ()) is None


@pytest.mark.parametrize("text", ["", " \n ", "```python\n```", "I do not know.", "(" * 9000, "def f(:", "\0"])
def test_no_code_is_no_answer(text):
    assert find_code(text, None, ()) is None


def test_code_that_does_not_parse_is_kept_where_it_is_marked_as_code():
    assert find_code("```python\ndef f(:\n```", None, ()) == ["def f(:\n"]


@pytest.mark.parametrize("completion", [BODY, f"```python\n{BODY}```", f"{BODY}\nprint(double(2))\nIt works!\n"])
def test_a_function_body_continues_the_prompt(completion):
    sources = find_code(completion, PROMPT, ("double",))
    assert sources is not None
    assert run(sources)(4) == 8


def test_code_that_defines_the_function_is_run_after_the_code_of_the_prompt():
    assert find_code(f"```python\n{WHOLE}```", PROMPT, ("double",)) == [PROMPT, WHOLE]


@pytest.mark.parametrize("completion", ["# nothing\n", "", "    # nothing\n", "That is easy.\n"])
def test_a_completion_that_adds_nothing_to_the_prompt_is_no_answer(completion):
    sources = find_code(completion, PROMPT, ("double",))
    assert sources is None or run(sources)(4) is None


def test_the_code_of_a_prompt_is_found_in_text_in_blocks_and_in_messages():
    asked = f"Complete this:\n```python\n{PROMPT}```\n"
    assert prompt_code(PROMPT, "double") == PROMPT
    assert prompt_code(asked, "double") == PROMPT
    assert prompt_code([{"role": "user", "content": asked}], "double") == PROMPT
    assert prompt_code("Write a function double(x).", "double") is None
    assert prompt_code(PROMPT, "triple") is None
    assert prompt_code(PROMPT, None) is None
    assert prompt_code("def double(x):\n", "double") == "def double(x):\n\n    pass\n"


@pytest.mark.parametrize("line", [" " * 50_000, "a" * 50_000, "a " * 25_000, "\n" * 50_000, "\n```" * 12_500])
def test_a_fence_of_50_000_characters_takes_little_time(line):
    # In a process without the shape checks of the tests, which cost more than what is measured.
    code = "import time\nfrom redraft.rewards.library.code.extract import find_code\nstarted = time.process_time()\n"
    code += f"find_code({'```' + line!r}, {PROMPT!r}, ('double',))\nprint(time.process_time() - started)"
    ended = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 2.0
