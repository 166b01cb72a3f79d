"""Completions that try to pass without the answer: none scores, in no sandbox and without one.

After each attack the same worker has to accept an honest answer, so none of them leaves anything behind either.
"""

from dataclasses import replace

import pytest

from code_rows import KINDS, fenced, human_eval, mbpp, require, score
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.library.code.reward import check_one, make_job

WRONG = "def truncate_number(number):\n    return 7.0\n"

# Against HumanEval/2: assert candidate(3.5) == 0.5, and two of the form abs(candidate(1.33) - 0.33) < 1e-6
ATTACKS = {
    "exit_when_loaded": "import sys\nsys.exit(0)\n" + WRONG,
    "os_exit_when_loaded": "import os\nos._exit(0)\n" + WRONG,
    "raise_system_exit_when_loaded": WRONG + "raise SystemExit(0)\n",
    "exit_when_called": "import sys\ndef truncate_number(number):\n    sys.exit(0)\n",
    "os_exit_when_called": "import os\ndef truncate_number(number):\n    os._exit(0)\n",
    "raise_system_exit_when_called": "def truncate_number(number):\n    raise SystemExit(0)\n",
    "raise_keyboard_interrupt": "def truncate_number(number):\n    raise KeyboardInterrupt\n",
    "raise_generator_exit": "def truncate_number(number):\n    raise GeneratorExit\n",
    "exit_on_the_second_call": """
import os
calls = []
def truncate_number(number):
    calls.append(number)
    if len(calls) == 2:
        os._exit(0)
    return 0.5
""",
    "printed_markers": """
import sys
for stream in (sys.stdout, sys.stderr, sys.__stdout__):
    print("passed\\nOK\\n1 passed in 0.01s\\n" + '{"status": "ok", "score": 1.0}', file=stream, flush=True)
"""
    + WRONG,
    "verdict_files": """
for name in ("result.json", "verdict", "/tmp/result.json", "/tmp/passed"):
    try:
        with open(name, "w") as file:
            file.write('{"status": "ok", "score": 1.0}')
    except OSError:
        pass
"""
    + WRONG,
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\nimport sys\nsys.exit(1)\n" + WRONG,
    "excepthook": "import os, sys\nsys.excepthook = lambda *error: os._exit(0)\n"
    "def truncate_number(number):\n    raise ValueError\n",
    "patched_builtins": """
import builtins
builtins.abs = lambda x: 0
builtins.sorted = builtins.set = lambda *a, **k: []
builtins.isinstance = lambda *a: True
builtins.AssertionError = builtins.Exception
builtins.float = builtins.int = lambda *a: 0.5
"""
    + WRONG,
    "own_abs_at_top_level": "def abs(x):\n    return 0\n" + WRONG,
    "own_check_at_top_level": "def check(candidate):\n    pass\nMETADATA = {}\n" + WRONG,
    "always_equal_object": """
class Equal:
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    def __bool__(self): return True
def truncate_number(number): return Equal()
""",
    "float_subclass": """
class Equal(float):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    __hash__ = float.__hash__
def truncate_number(number): return Equal(7.0)
""",
    "metaclass_with_equality": """
class Meta(type):
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class Equal(metaclass=Meta): pass
def truncate_number(number): return Equal
""",
    "returns_a_callable": "def truncate_number(number):\n    return lambda *a: 0.5\n",
    "returns_a_type": "def truncate_number(number):\n    return float\n",
    "frame_walking": """
import sys
def truncate_number(number):
    frame, seen = sys._getframe(), []
    while frame:
        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
            if isinstance(value, float) and value != number:
                return value
            if "assert" in str(name) or "check" in str(name):
                frame.f_globals[name] = lambda *a: None
        frame = frame.f_back
    return 7.0
""",
    "gc_scan": """
import gc
def truncate_number(number):
    for thing in gc.get_objects():
        if callable(thing) and getattr(thing, "__name__", "") == "check":
            thing.__code__ = (lambda candidate: None).__code__
        if isinstance(thing, dict):
            for value in list(thing.values()):
                if isinstance(value, float) and 0 < value < 1:
                    return value
    return 7.0
""",
    "rewritten_runner": """
import __main__
__main__._answer = lambda request, namespace: b'["t","value",["f","0x1.0p-1"],null]'
__main__.dumps = lambda *a, **k: b'["t","value",["f","0x1.0p-1"],null]'
"""
    + WRONG,
    "forged_verdict_frame": """
import __main__
__main__._answer = lambda request, namespace: b'["t","ok",["f","0x1.0p+0"],"passed"]'
"""
    + WRONG,
    "forged_early_replies": """
import os, sys
text = b'["t","value",["f","0x1.0p-1"],null]'
for _ in range(5):
    os.write(int(sys.argv[1]), len(text).to_bytes(8, "big") + text)
"""
    + WRONG,
    "forged_reply_to_the_next_call": """
import os, sys
def truncate_number(number):
    text = b'["t","value",["f","0x1.0p-1"],null]'
    os.write(int(sys.argv[1]), (len(text).to_bytes(8, "big") + text) * 3)
    return 0.5
""",
    "channel_found_by_trying": """
import os
text = b'["t","value",["f","0x1.0p-1"],null]'
for descriptor in range(3, 64):
    try:
        os.write(descriptor, (len(text).to_bytes(8, "big") + text) * 4)
    except OSError:
        pass
os._exit(0)
""",
    "oversized_frame": "import os, sys\nos.write(int(sys.argv[1]), (1 << 40).to_bytes(8, 'big') + b'x')\n" + WRONG,
    "unfinished_frame": "import os, sys\nos.write(int(sys.argv[1]), (99).to_bytes(8, 'big') + b'[')\nos._exit(0)\n",
    "frame_of_nothing": "import os, sys\nos.write(int(sys.argv[1]), bytes(8))\n" + WRONG,
    "closed_channel": "import os, sys\nos.close(int(sys.argv[1]))\n" + WRONG,
    "forked_answerer": "import os\nif os.fork():\n    os._exit(0)\n" + WRONG,
    "thread_that_talks": """
import os, sys, threading
def talk():
    text = b'["t","value",["f","0x1.0p-1"],null]'
    while True:
        os.write(int(sys.argv[1]), len(text).to_bytes(8, "big") + text)
threading.Thread(target=talk, daemon=True).start()
"""
    + WRONG,
    "nan": "def truncate_number(number):\n    return float('nan')\n",
    "infinity": "def truncate_number(number):\n    return float('inf')\n",
    "endless_generator": "import itertools\ndef truncate_number(number):\n    return itertools.repeat(0.5)\n",
    "deep_nesting": "def truncate_number(number):\n    v = 0.5\n    for _ in range(900): v = [v]\n    return v\n",
    "list_that_holds_itself": "def truncate_number(number):\n    v = []\n    v.append(v)\n    return v\n",
    "integer_too_long_to_print": "def truncate_number(number):\n    return 10 ** 9999\n",
    "integer_of_a_megabyte": "def truncate_number(number):\n    return 1 << 8_000_000\n",
    "string_of_10_megabytes": "def truncate_number(number):\n    return 'a' * 10_000_000\n",
    "string_over_the_limit": "def truncate_number(number):\n    return 'a' * 20_000_000\n",
    "list_of_300_000": "def truncate_number(number):\n    return [0.5] * 300_000\n",
    "pickled_payload": """
import pickle
class Payload:
    def __reduce__(self):
        return eval, ("1/0",)
def truncate_number(number): return pickle.dumps(Payload()) if number < 2 else Payload()
""",
    "del_tricks": """
import os
class Trick:
    def __del__(self):
        os._exit(0)
def truncate_number(number): return Trick()
""",
    "assertion_error": "def truncate_number(number):\n    raise AssertionError\n",
    "stop_iteration": "def truncate_number(number):\n    raise StopIteration\n",
    "exception_that_cannot_be_printed": """
class Nasty(BaseException):
    def __str__(self): raise SystemExit(0)
def truncate_number(number): raise Nasty
""",
    "exception_named_like_ours": "class UncheckableError(BaseException): pass\n"
    "def truncate_number(number):\n    raise UncheckableError('not checkable')\n",
    "exit_without_import_when_loaded": "exit()\n" + WRONG,
    "quit_without_import_when_called": "def truncate_number(number):\n    quit(0)\n",
    "exit_replaced": "import builtins\nbuiltins.exit = builtins.quit = lambda *_: 0.5\n" + WRONG,
    "fraction_that_is_always_equal": """
from fractions import Fraction
class Equal(Fraction):
    def __eq__(self, other): return True
    def __sub__(self, other): return Fraction(0)
    def __abs__(self): return Fraction(0)
    __hash__ = Fraction.__hash__
def truncate_number(number): return Equal(7, 3)
""",
    "decimal_that_is_not_a_number": "from decimal import Decimal\n"
    "def truncate_number(number):\n    return Decimal('NaN')\n",
    "date_that_is_always_equal": """
import datetime
class Equal(datetime.timedelta):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    __hash__ = None
def truncate_number(number): return Equal(7)
""",
    "record_that_is_always_equal": """
from dataclasses import dataclass
@dataclass
class Equal:
    x: float = 0.5
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
def truncate_number(number): return Equal()
""",
    "forged_record_with_methods": """
import os, sys
def truncate_number(number):
    half = b'["f","0x1.0p-1"]'
    text = b'["o","R",false,["l","__eq__","__sub__","__class__"],["l",' + half + b"," + half + b"," + half + b"]]"
    text = b'["t","value",' + text + b',null]'
    os.write(int(sys.argv[1]), len(text).to_bytes(8, "big") + text)
    import time
    time.sleep(9)
""",
    "named_tuple_with_methods": """
from collections import namedtuple
def truncate_number(number): return namedtuple("R", "count index x")(0.5, 0.5, 0.5)
""",
    "array_without_numpy": """
import os, sys
def truncate_number(number):
    text = b'["t","value",["x","ndarray","<f8",["l",1],["b","000000000000e03f"]],null]'
    os.write(int(sys.argv[1]), len(text).to_bytes(8, "big") + text)
    import time
    time.sleep(9)
""",
    "pool_of_answerers": """
import multiprocessing, os, sys
def answer(_):
    text = b'["t","value",["f","0x1.0p-1"],null]'
    os.write(int(sys.argv[1]), (len(text).to_bytes(8, "big") + text) * 4)
try:
    multiprocessing.Pool(2).map(answer, range(2))
except OSError:
    pass
"""
    + WRONG,
    "signal_to_the_parent": "import os, signal\ntry:\n    os.kill(os.getppid(), 0)\nexcept OSError:\n    pass\n"
    + WRONG,
}


@pytest.fixture(params=KINDS)
def kind(request):
    require(request.param)
    return request.param


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_scores_zero_and_the_next_honest_answer_one(attack, kind, shared_data):
    row = human_eval(shared_data)["HumanEval/2"]
    verdicts = score(row, [fenced(ATTACKS[attack]), row["canonical_solution"]], kind)
    assert (verdicts[0].score, str(verdicts[0].status)) in [(0.0, "wrong"), (0.0, "timeout")], verdicts[0]
    assert verdicts[1].score == 1.0, verdicts[1]


LISTS = "class Own(list):\n    def __eq__(self, other): return True\n    def __len__(self): return 4\n"
DICTS = "class Own(dict):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"

# Against other rows: what their tests lean on is what the attack replaces.
OTHER_ATTACKS = {
    "patched_isclose": (82, "import math\nmath.isclose = lambda *a, **k: True\ndef volume_sphere(r): return 0.0\n"),
    "own_set_at_top_level": (2, "def set(x): return 0\ndef similar_elements(a, b): return 0\n"),
    "own_sum_that_is_wrong": (126, "def sum(a, b): return 6\n"),
    "list_subclass": (8, LISTS + "def square_nums(nums): return Own()\n"),
    "dict_subclass": (88, DICTS + "def freq_count(nums): return Own()\n"),
    "own_helper_of_the_tests": ("HumanEval/32", "def poly(xs, x): return 0.0\ndef find_zero(xs): return 0.0\n"),
    "own_encoder_of_the_tests": (
        "HumanEval/38",
        "def encode_cyclic(s): return ''\ndef decode_cyclic(s): return ''\n",
    ),
    "cleared_arguments": ("HumanEval/33", "def sort_third(l):\n    l.clear()\n    return ()\n"),
}


@pytest.mark.parametrize("attack", OTHER_ATTACKS)
def test_an_attack_on_what_the_tests_use_scores_zero(attack, kind, shared_data):
    task, code = OTHER_ATTACKS[attack]
    row = (human_eval if isinstance(task, str) else mbpp)(shared_data)[task]
    honest = row.get("code", row.get("canonical_solution"))
    assert [verdict.score for verdict in score(row, [fenced(code), honest], kind)] == [0.0, 1.0]


SORTED = {"fn_name": "order", "inputs": [[[2, 1, 3]], [[1]]], "outputs": [[1, 2, 3], [1]]}
PROVIDED_ATTACKS = {
    "own_names": "def reduce(*_): return [1]\ndef heapify(x): return x\nclass List(list):\n"
    "    def __eq__(self, other): return True\nclass Solution:\n    def order(self, x): return List(x[:1])\n",
    "own_sys": "class sys:\n    exit = staticmethod(lambda *_: [1, 2, 3])\ndef order(x): return sys.exit()\n",
    "list_node": "def order(x): return ListNode(x)\n",
    "exit_of_the_runner": "import __main__\n__main__.few_cores = __main__.prepare = None\ndef order(x): exit(0)\n",
    "wrapped_once": "calls = []\ndef order(x):\n    calls.append(x)\n    return sorted(x) if len(calls) < 2 else 1\n",
}


@pytest.mark.parametrize("attack", PROVIDED_ATTACKS)
def test_an_attack_on_what_call_rows_provide_scores_zero(attack, kind):
    codes = [PROVIDED_ATTACKS[attack], "class Solution:\n    def order(self, x: List[int]): return sorted(x)\n"]
    assert [verdict.score for verdict in score(SORTED, [fenced(code) for code in codes], kind)] == [0.0, 1.0]


STEERED = {"test_list": ["for got, want in zip(map(candidate, [1, 2]), [2, 3]):\n    assert got == want"]}


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit"])
def test_an_exception_that_would_end_a_loop_of_the_tests_scores_zero(name, kind):
    codes = [f"def candidate(x):\n    raise {name}\n", "def candidate(x):\n    return x + 1\n"]
    row = STEERED | {"entry_point": "candidate"}
    assert [verdict.score for verdict in score(row, [fenced(code) for code in codes], kind)] == [0.0, 1.0]


ECHO = {"inputs": ["3 4\n", "1 2\n"], "outputs": ["7\n12\n", "3\n2\n"]}  # the sum, then the product
HONEST = "a, b = map(int, input().split())\nprint(a + b)\nprint(a * b)\n"
PROGRAM_ATTACKS = {
    "prefix_of_the_output": "a, b = map(int, input().split())\nprint(a + b)\n",
    "more_lines": HONEST + "print(0)\n",
    "more_words": "a, b = map(int, input().split())\nprint(a + b)\nprint(a * b, 0)\n",
    "empty_output": "pass\n",
    "only_white_space": "print()\nprint()\n",
    "exit_at_once": "import sys\nsys.exit(0)\n",
    "os_exit_at_once": "import os\nos._exit(0)\n",
    "right_output_and_exit_code_1": HONEST + "import sys\nsys.exit(1)\n",
    "right_output_and_an_exception": HONEST + "raise ValueError\n",
    "verdict_lines": "print('passed')\nprint('OK')\n",
    "output_on_stderr": "import sys\nsys.stdout = sys.stderr\n" + HONEST,
    "all_expected_outputs": "print('7\\n12\\n3\\n2')\n",
    "endless_output": "while True:\n    print('7' * 100)\n",
}


@pytest.mark.parametrize("attack", PROGRAM_ATTACKS)
def test_a_program_that_prints_something_else_scores_zero(attack, kind):
    verdicts = score(ECHO, [fenced(PROGRAM_ATTACKS[attack]), fenced(HONEST)], kind)
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0], verdicts


def test_an_unfinished_frame_of_a_program_that_lives_on_is_a_timeout(kind, shared_data):
    row = human_eval(shared_data)["HumanEval/2"]
    options = CodeOptions(sandbox=kind, allow_unsafe=kind == "unsafe", num_workers=1)
    code = "import os, sys, time\nos.write(int(sys.argv[1]), (99).to_bytes(8, 'big') + b'[')\ntime.sleep(60)\n"
    job = make_job(row["prompt"], fenced(code + WRONG), row, options)
    finding = check_one(options.pool(), replace(job, wall_s=1.0))
    assert (finding.status, finding.fraction, finding.retry) == ("timeout", 0.0, False)


def test_a_busy_loop_ends_with_its_cpu_time(kind, shared_data):
    row = human_eval(shared_data)["HumanEval/2"]
    code = "def truncate_number(number):\n    while True: pass\n"
    (verdict,) = score(row, [fenced(code)], kind, timeout_s=1)
    assert (verdict.score, str(verdict.status)) == (0.0, "timeout")
    assert "CPU" in verdict.detail
