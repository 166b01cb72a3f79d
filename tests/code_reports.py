# ruff: noqa: E501, RUF001 - tables of texts
"""Kinds of faults that users of code graders reported, as tables: completion, columns of its row, score.

The first rows of a kind are reported or measured; the others are siblings of them.
"""

import base64
import json
import pickle
import zlib

HEX = "0x" + "f" * 5000
DOUBLE = {
    "prompt": 'def double_all(xs):\n    """Return every element times two."""\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n",
    "entry_point": "double_all",
}
ADD = {"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
SUM = {"inputs": ["3\n1 2 3\n", "1\n5\n"], "outputs": ["6\n", "5\n"]}
TOTAL = {"fn_name": "total", "inputs": [[[1, 2, 3]], [[]]], "outputs": [6, 0]}
ONE = {"inputs": ["x\n"], "outputs": ["1\n"]}
DEF = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return 7\n"
READ = "n = int(input())\nprint(sum(map(int, input().split())))\n"


def py(code):
    return f"```python\n{code}\n```\n"


# Whatever a text does to the checker's handling of it: a wrong answer scores 0 and a right one 1.
BODY = "    return [2 * x for x in xs]"
LITERALS = [
    (f"    x = {HEX}\n    return xs\n", 0.0),
    (f"{BODY} if {HEX} else None\n", 1.0),
    (f"    x = {'9' * 6000}\n{BODY}\n", 1.0),
    (f"    x = {'9' * 6000}\n    return xs\n", 0.0),
    (f"    x = [{'1, ' * 20_000}]\n{BODY}\n", 1.0),
    (f"    x = {'(' * 100_000}1{')' * 100_000}\n    return xs\n", 0.0),
    (f"    x = {'-' * 90_000}1\n    return xs\n", 0.0),
    (f"    x = {'1+' * 1500}1\n{BODY}\n", 1.0),
    (f"    x = {'1+' * 40_000}1\n    return xs\n", 0.0),
    ("    x = '\ud800'\n    return xs\n", 0.0),
    ("    x = '\0'\n    return xs\n", 0.0),
    ("    x = '\\d'; y = x is 'a'\n" + BODY, 1.0),
    ("    \f\n" + BODY, 1.0),
    ("\treturn [2 * x for x in xs]\n", 1.0),
    (f"# -*- coding: no_such_coding -*-\ndef double_all(xs):\n{BODY}\n", 1.0),
    (f"\ufeffdef double_all(xs):\n{BODY}\n", 1.0),
    (f"def double_all(xs):\r\n{BODY}\r\n", 1.0),
    (f"def double_all(xs):\n    x = '{'é' * 70_000}'\n{BODY}\n", 1.0),
    (f"def double_all(xs):\n    return xs if xs else {HEX}\n", 0.0),
]

# Values that a candidate returns: each is wrong, and none makes the checker fail.
VALUES = [
    "10 ** 300_000",
    "[10 ** 100_000] * 50",
    "{10 ** 9999: float('nan')}",
    "type('S', (str,), {'__repr__': lambda self: 1 / 0})('a')",
    "type('E', (Exception,), {'__str__': lambda self: '\\ud800'})('a')",
    "(_ for _ in ()).throw(type('E', (Exception,), {'__str__': lambda self: '\\ud800'})('a'))",
    "'\\ud800' * 1000",
    "(lambda v: v.append(v) or v)([])",
    "__import__('functools').reduce(lambda v, _: [v], range(200), 0)",
    "float('nan')",
    "bytearray(3)",
    "type('F', (__import__('fractions').Fraction,), {'__eq__': lambda *_: True})(1, 7)",
    "type('D', (__import__('decimal').Decimal,), {'__eq__': lambda *_: True})('0.1')",
    "__import__('decimal').Decimal('sNaN')",
    "__import__('decimal').Decimal('1e999999')",
    "type('D', (__import__('datetime').date,), {'__eq__': lambda *_: True})(2024, 1, 1)",
    "__import__('collections').namedtuple('P', 'a')(2)",
    "__import__('dataclasses').make_dataclass('P', ['a'], namespace={'__eq__': lambda *_: True}, eq=False)(2)",
]

BLOCKS = [
    (f"`````markdown\nHere it is:\n{py(DEF)}\nIt adds.\n`````", 1.0),
    (f"```md\n{py(DEF)}\n```", 1.0),
    (f"```python\n{DEF}``` is the code", 1.0),
    (f"```python\n{DEF}```That is `add`, as asked:\n\n```\n3\n```\n", 1.0),
    (f"```python\n{DEF}\n```python\nprint(add(1, 2))\n```", 1.0),
    ("```def add(a, b): return a + b```", 1.0),
    ("```python def add(a, b): return a + b```", 1.0),
    (f"```\n```python\n{DEF}```\n```", 1.0),
    (f"```\npython\n{DEF}```", 1.0),
    (f"[BEGIN]\n{DEF}[DONE]\n", 1.0),
    (f"{DEF}[DONE]\n", 1.0),
    (f"{py(DEF)}\nExample:\n\n{py('print(add(1, 2))')}", 1.0),
    ("1. Code:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n", 1.0),
    ('```python\ndef add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n```', 1.0),
    (f"````python\n{DEF}````", 1.0),
    (f"```python\n{DEF.rstrip()}```", 1.0),
    (f"```python\n{DEF.rstrip()}```\n\nExample:\n\n{py('print(add(1, 2))')}", 1.0),
    (f"~~~python\n{DEF}~~~\n", 1.0),
    (f"~~~\n{DEF}# ```\n~~~\n", 1.0),
    (f"````markdown\n```python\n{WRONG}```\n````\n\n{py(DEF)}", 1.0),
    ("- Code:\n\n\t```py\n\tdef add(a, b):\n\t    return a + b\n\t```\n", 1.0),
    ("10) ```python\n    def add(a, b):\n        return a + b\n    ```\n", 1.0),
    (f"1. ```python\n{DEF}```\n", 1.0),
    ("> ```python\n> def add(a, b):\n>     return a + b\n> ```\n> That is all.\n", 1.0),
    *[
        (f"```{info}\n{DEF}```", 1.0)
        for info in ("Python", "python3", "py title='a.py'", "{.python}", "python:a.py", "")
    ],
    (f"```python\n{DEF}", 1.0),
    (f"Here it is: ```python\n{DEF}```", 1.0),
    (f"<answer>\n{py(DEF)}</answer>\nDone.", 1.0),
    (f"<answer>{DEF}</answer>", 1.0),
    (f"<think>{py(WRONG)}</think>{py(DEF)}", 1.0),
    (f"<think>{py(DEF)}</think>I do not know.", 0.0),
    (DEF, 1.0),
    (f"This is my answer.\n\n{DEF}\nIt adds two numbers.\n", 1.0),
    (f"{DEF}```\n\nThat was the function.", 1.0),
    (f"```python\n{DEF}```\n\n```\n>>> add(1, 2)\n3\n```\n", 1.0),
    (f"{py(DEF)}\n{py('from solution import add' + chr(10) + 'assert add(1, 2) == 3')}", 1.0),
    (
        f"{py('from math import fsum' + chr(10))}\n{py('def add(a, b):' + chr(10) + '    return int(fsum([a, b]))')}",
        1.0,
    ),
    (
        f"{py('def add(a, b):' + chr(10) + '    return plus(a, b)')}\n{py('def plus(a, b):' + chr(10) + '    return a + b')}",
        1.0,
    ),
    (
        f"{py('def plus(a, b):' + chr(10) + '    return a + b' + chr(10) + 'print(plus(input(), 1))')}\n{py('def add(a, b): return plus(a, b)')}",
        1.0,
    ),
    (f"{py(DEF)}\nAs a sketch:\n\n{py('def add(a, b):' + chr(10) + '    ...')}", 1.0),
    (f"{py(WRONG)}\nNo, rather:\n\n{py(DEF)}", 1.0),
    (f"{py(DEF)}\nNo, rather:\n\n{py(WRONG)}", 0.0),
    (f"{py(DEF)}\nNo, rather:\n\n{py('def add(a, b):' + chr(10) + '    return a +')}", 0.0),
    ("```python\n    def add(a, b):\n        return a + b\n```", 1.0),
    ("```python\ntext = '''\n```\nnot the end\n```\n'''\ndef add(a, b):\n    return a + b\n```\n", 1.0),
    (f"```python\r\n{DEF.replace(chr(10), chr(13) + chr(10))}```\r\n", 1.0),
    (f"```json\n{{}}\n```\n\n```\n{DEF}```\n\n```text\n3\n```", 1.0),
]

# A function whose beginning the prompt gave.
BODIES = [
    (BODY, 1.0),
    (BODY.strip(), 1.0),
    (f"{BODY}\n```\nThat is all.", 1.0),
    (py(BODY), 1.0),
    (py(BODY.strip()), 1.0),
    (DOUBLE["prompt"] + BODY, 1.0),
    (py(DOUBLE["prompt"] + BODY), 1.0),
    (
        f"    ys = []\n    for x in xs:\n        # ```\n        ys.append(2 * x)\n    return ys\n\n{py('print(double_all([1]))')}",
        1.0,
    ),
    ("Yes", 0.0),
    ("    return xs", 0.0),
]

PROGRAM_BLOCKS = [
    (f"{py(READ)}\nFor example:\n\n```\n3\n1 2 3\n```\nprints\n```\n6\n```\n", 1.0),
    (f"{py(READ)}\nThe sum alone:\n\n{py('print(sum([1, 2, 3]))')}", 1.0),
    (f"{py(READ)}\nThe part that matters:\n\n{py('total = sum(xs)')}", 1.0),
    (
        f"{py('def solve(xs):' + chr(10) + '    return sum(xs)' + chr(10) + 'print(solve([1]))')}\n{py('input()' + chr(10) + 'print(solve(map(int, input().split())))')}",
        1.0,
    ),
    (
        f"{py('def main():' + chr(10) + '    input()' + chr(10) + '    print(sum(map(int, input().split())))')}\n{py('if __name__ == ' + repr('__main__') + ':' + chr(10) + '    main()')}",
        1.0,
    ),
    (
        f"{py('def main():' + chr(10) + '    input()' + chr(10) + '    print(sum(map(int, input().split())))' + chr(10) + 'main()')}\nTry it:\n\n{py('import io, sys' + chr(10) + 'sys.stdin = io.StringIO(' + repr('1' + chr(10) + '5') + ')' + chr(10) + 'main()')}",
        1.0,
    ),
    (READ, 1.0),
    (f"The program:\n\n{READ}", 1.0),
    (f"```python\n{READ.rstrip()}```", 1.0),
    (f"{py(READ)}\nRather:\n\n{py('input()' + chr(10) + 'print(input())')}", 0.0),
]

ENDS = [
    (py(READ + "exit()"), 1.0),
    (py(READ + "quit()"), 1.0),
    (py(READ + "exit(0)"), 1.0),
    (py(READ + "import sys\nsys.exit()"), 1.0),
    (py("def main():\n    input()\n    print(sum(map(int, input().split())))\n    quit()\nmain()"), 1.0),
    (py(READ + "raise SystemExit"), 1.0),
    (py(READ + "exit(1)"), 0.0),
    (py(READ + "exit('wrong')"), 0.0),
    (py("exit()\n" + READ), 0.0),
    (py("print(6)\nexit()"), 0.0),
    (py("n = int(input('n? '))\nprint(sum(map(int, input().split())))"), 0.0),  # what input prints is output
]
# The same words in code that is called never pass.
CALLED_ENDS = ["exit()\n", f"{DEF}exit()\n", "def add(a, b):\n    exit()\n", "def add(a, b):\n    quit(0)\n"]
CALLED_ENDS += ["import builtins\nbuiltins.exit = lambda *_: 3\ndef add(a, b):\n    return exit()\n"]

PROVIDED = [
    (py("class Solution:\n    def total(self, nums: List[int]) -> int:\n        return sum(nums)"), 1.0),
    (
        py(
            "class Solution:\n    def total(self, nums: Optional[List[int]]) -> Dict[str, int]:\n        return reduce(operator.add, nums, 0)"
        ),
        1.0,
    ),
    (
        py(
            "def total(nums):\n    q = deque(nums); h = list(q); heapify(h); d = defaultdict(int)\n    return int(fsum(h)) + d[0] + bisect_left([], inf) + gcd(0, 0)"
        ),
        1.0,
    ),
    (
        py(
            "def total(nums: 'List[int]'):\n    @lru_cache(None)\n    def f(i): return 0 if i == len(nums) else nums[i] + f(i + 1)\n    return f(0) + len(re.findall('a', string.digits)) + math.floor(0.5)"
        ),
        1.0,
    ),
    (
        py(
            "class Solution:\n    def total(self, nums, head: Optional[ListNode] = None, root: TreeNode = None):\n        return sum(accumulate(nums[:0])) + sum(nums) + ListNode(0).val"
        ),
        1.0,
    ),
    (py("def gcd(a, b): return 6\ndef total(nums):\n    return gcd(1, 2) if nums else 0"), 1.0),
    (py("def total(nums):\n    return sum(nums) + no_such_name"), 0.0),
    (py("def inf(*_): return 0\ndef total(nums):\n    return inf"), 0.0),
    (
        py("def total(nums):\n    f = lambda n: 0 if n == 0 else 1 + f(n - 1)\n    return f(20_000) * 0 + sum(nums)"),
        1.0,
    ),
]
SOLUTIONS = [
    (  # what the library has under the name under test is no answer to the row
        {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]},
        py("class Solution:\n    def add(self, a, b): return a"),
        0.0,
    ),
    (
        {"fn_name": "merge", "inputs": [[[1], [0]]], "outputs": [[0, 1]]},
        py("class Solution:\n    def merge(self, a, b): return sorted(a + b)"),
        1.0,
    ),
    (
        {"fn_name": "gcd", "inputs": [[4, 6]], "outputs": [2]},
        py("class Solution:\n    def gcd(self, a, b): return gcd(a, b)"),
        1.0,
    ),
    (
        {"fn_name": "f", "inputs": [[4]], "outputs": [5]},
        py("class Solution:\n    def __init__(self, x): self.x = x\n    def f(self): return 0\ndef f(x): return x + 1"),
        1.0,
    ),
    (
        {"fn_name": "Solution.add", "inputs": [[1, 2]], "outputs": [3]},
        py("class Solution:\n    add = lambda *a: sum(a[1:])"),
        1.0,
    ),
    ({"test_list": ["assert Solution().total([1, 2]) == 3"]}, PROVIDED[0][0], 1.0),
    (
        {"test": "def check(candidate):\n    assert candidate(nums=[1, 2]) == 3\n", "entry_point": "Solution().total"},
        PROVIDED[0][0],
        1.0,
    ),
    (
        {"test_list": ["assert Solution().total([1, 2]) == 3"]},
        py(
            "class Solution:\n    def __getattr__(self, name): return lambda *_: type(self)()\n    def __eq__(self, other): return True"
        ),
        0.0,
    ),
]

LONG = [
    ({"inputs": ["x\n"], "outputs": ["3874\n"]}, py("print(str(7**6000)[:4])"), 1.0),
    ({"inputs": ["5000\n"], "outputs": ["1" + "0" * 5000 + "\n"]}, py("print(10 ** int(input()))"), 1.0),
    ({"inputs": ["9" * 5000 + "\n"], "outputs": ["1" + "0" * 5000]}, py("print(int(input()) + 1)"), 1.0),
    (
        {"test_list": ["assert power(6000) == 7 ** 6000 and len(str(power(6000))) == 5071"]},
        py("def power(n):\n    return int(str(7 ** n))"),
        1.0,
    ),
    (
        {"test_list": ["assert power(6000) == 7 ** 6000 and len(str(power(6000))) == 5071"]},
        py("def power(n):\n    return 7 ** n + 1"),
        0.0,
    ),
    (
        {"fn_name": "power", "inputs": ["5000"], "outputs": ["1" + "0" * 5000]},
        py("def power(n):\n    return 10 ** n"),
        1.0,
    ),
    (
        {"fn_name": "power", "inputs": ["5000"], "outputs": ["1" + "0" * 5000]},
        py("def power(n):\n    return 10 ** n + 1"),
        0.0,
    ),
]

PRINTED = [
    ("1000000", "1000001", 0.0),
    ("10", "1_0", 0.0),
    ("10", "10.0000001", 0.0),
    ("10", "10.0", 1.0),
    ("10", "0xa", 0.0),
    ("10", "１０", 0.0),
    ("10.5", "1_0.5", 0.0),
    ("10.5", "１０.5", 0.0),
    ("inf", "infinity", 0.0),
    ("inf", "inf", 1.0),
    ("nan", "NaN", 0.0),
    ("1000.0", "1e3", 1.0),
    ("1000", "1e3", 0.0),
    ("0.333333", "0.3333333333", 1.0),
    ("0.333333", ".3333333333", 1.0),
    ("0.333333", "0.34", 0.0),
    ("x = 0.333333, y = (0.5)", "x = 0.3333333333, y = (0.5000000001)", 1.0),
    ("x=0.333333;", "x=0.3333333333;", 1.0),
    ("x=0.333333;", "y=0.3333333333;", 0.0),
    ("case 100000000: 0.5", "case 100000001: 0.5", 0.0),
    ("1.2.3", "1.2.3000000001", 0.0),
    ("v1.5", "v1.50000001", 0.0),
    ("0.1 0.2", "0.1", 0.0),
    ("1000000000000000000000", "1000000000000000000001", 0.0),
    ("-0.0", "0.0", 1.0),
    ("0.5", "1e999999", 0.0),
    ("0.5", "0.5" + "0" * 5000, 0.0),
]
RETURNED = [
    (1000000, "1000001", 0.0),
    (1000000, "1000000.5", 0.0),
    (2, "2.0", 1.0),
    ([1000000, 0.5], "[1000001, 0.5]", 0.0),
    ([1000000, 0.5], "(1000000, 0.5000000001)", 1.0),
    ({"a": 10**12}, "{'a': 10**12 + 1}", 0.0),
    (0.3, "__import__('fractions').Fraction(3, 10)", 1.0),
    (0.3, "__import__('decimal').Decimal('0.3')", 1.0),
    (0.3, "'0.3'", 0.0),
    (True, "1.0", 0.0),
    ({"1": 2, "-3": 4}, "{1: 2, -3: 4}", 1.0),
    ({"1": 2}, "{2: 2}", 0.0),
    ({"01": 2}, "{1: 2}", 0.0),
]

SUM_LINES = {"inputs": [["3", "1 2 3"]], "outputs": [["6"]]}
STDIN_CASES = [{"input": "3\n1 2 3\n", "output": "6\n", "testtype": "stdin"}]
CALL_CASES = [{"input": "1\n2", "output": "3", "testtype": "functional"}]
PACKED = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "2\n2", "output": "4", "testtype": "functional"}])))
)
NAMED = json.dumps({"func_name": "add"})
KODCODE = """import pytest
from solution import add

def test_sum():
    assert add(1, 2) == 3

@pytest.mark.parametrize("a, b, total", [(2, 2, 4), pytest.param(0, 1, 1)])
def test_more(a, b, total):
    assert add(a, b) == pytest.approx(total)

@pytest.mark.parametrize("pair", [(5, 6)])
def test_pairs(pair):
    assert add(*pair) == 11
    with pytest.raises(TypeError):
        add(1)
"""
UNITTEST = """import unittest

class TestAdd(unittest.TestCase):
    def setUp(self):
        self.one = 1

    def test_sum(self):
        self.assertEqual(add(self.one, 2), 3)

if __name__ == "__main__":
    unittest.main()
"""
CLASSES = """class TestAdd:
    def setup_method(self):
        self.one = 1

    def test_sum(self):
        assert add(self.one, 2) == 3
"""

FORMATS = [
    *(
        ({"test": test}, py(code), expected)
        for test in (KODCODE, UNITTEST, CLASSES)
        for code, expected in ((DEF, 1.0), ("def add(a, b):\n    return a - b", 0.0), ("def add(a, b): exit()", 0.0))
    ),
    ({"test": KODCODE}, py("def add(a, b):\n    return 3 if a == 1 else a + b + (a == 5)"), 0.0),
    ({"inputs": "1\n5\n", "outputs": "5\n", "fn_name": ""}, py(READ), 1.0),
    ({"inputs": 4, "outputs": 8}, py("print(int(input()) * 2)"), 1.0),
    ({"test_list": "assert add(1, 2) == 3\nassert add(0, 0) == 0"}, py(DEF), 1.0),
    ({"ground_truth": str({"inputs": ["1\n5\n"], "outputs": ["5\n"]})}, py(READ), 1.0),
    (SUM_LINES, py(READ), 1.0),
    ({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}, py(DEF), 1.0),
    ({"inputs": ["3\n1 2 3\n"], "outputs": ["6\n"]}, py("print()\n" + READ), 1.0),
    ({"inputs": ["3\n1 2 3\n"], "outputs": ["  6\r\n\r\n"]}, py(READ), 1.0),
    ({"inputs": [["3", "1 2 3"], ["1", "5"]], "outputs": [["6"], [5]]}, py(READ), 1.0),
    ({"inputs": [["3\n", "1 2 3\n"]], "outputs": [["6\n"]]}, py(READ), 1.0),
    (
        {"inputs": [["2"]], "outputs": [["1", "2"]]},
        py("for n in range(int(input())): print(n + 1, end=' \\r\\n')"),
        1.0,
    ),
    ({"inputs": [["2"]], "outputs": [["1", "2"]]}, py("print(1)\nprint()\nprint(2)"), 0.0),
    ({"inputs": json.dumps(["3\n1 2 3\n"]), "outputs": json.dumps(["6\n"])}, py(READ), 1.0),
    ({"inputs": ["3\n1 2 3\n", "0\n\n"], "outputs": ["6\n", ""]}, py(READ), 1.0),
    (
        {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]},
        py("def add(a, b):\n    return [a + b]"),
        1.0,
    ),
    (
        {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]},
        py("def add(a, b):\n    return a + b if a == 1 else [a + b]"),
        0.0,
    ),
    ({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}, py(WRONG), 0.0),
    ({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["[3]"]}, py(DEF), 0.0),
    ({"fn_name": "add", "inputs": [{"a": 1, "b": 2}], "outputs": [3]}, py(DEF), 1.0),
    ({"input_output": json.dumps(SUM_LINES)}, py(READ), 1.0),
    ({"input_output": json.dumps(SUM)}, py(READ), 1.0),
    ({"input_output": SUM}, py("print(6)"), 0.0),
    (
        {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]})},
        py("class Solution:\n    def add(self, a, b): return a + b"),
        1.0,
    ),
    (
        {"input_output": {"fn_name": "get", "inputs": [[{"1": "a"}]], "outputs": ["a"]}},
        py("def get(d):\n    return d[1]"),
        1.0,
    ),
    ({"ground_truth": json.dumps(SUM)}, py(READ), 1.0),
    ({"ground_truth": json.dumps({"assert_case": ADD["test_list"]})}, py(DEF), 1.0),
    ({"ground_truth": json.dumps({"assert_case": ADD["test_list"]})}, py(WRONG), 0.0),
    ({"ground_truth": json.dumps(ADD["test_list"])}, py(DEF), 1.0),
    ({"ground_truth": "assert add(1, 2) == 3\nassert add(2, 2) == 4"}, py(DEF), 1.0),
    (
        {"ground_truth": json.dumps({"functional": "def check(f):\n    assert f(1, 2) == 3\n\ncheck(Solution().add)"})},
        py("class Solution:\n    def add(self, a, b): return a + b"),
        1.0,
    ),
    ({"tests": json.dumps([{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": 3}])}, py(DEF), 1.0),
    (
        {
            "verification_info": {
                "language": "python",
                "test_cases": [{"type": "stdin_stdout", "input": "3\n1 2 3\n", "output": "6", "fn_name": None}],
            }
        },
        py(READ),
        1.0,
    ),
    (
        {"public_test_cases": json.dumps(STDIN_CASES), "private_test_cases": json.dumps(STDIN_CASES), "metadata": "{}"},
        py(READ),
        1.0,
    ),
    (
        {"public_test_cases": json.dumps(CALL_CASES), "private_test_cases": PACKED.decode(), "metadata": NAMED},
        py(DEF),
        1.0,
    ),
    (
        {"public_test_cases": json.dumps(CALL_CASES), "private_test_cases": PACKED.decode(), "metadata": NAMED},
        py("def add(a, b): return 3"),
        0.0,
    ),
    ({"reward_model": {"style": "rule", "ground_truth": json.dumps(SUM)}}, py(READ), 1.0),
    ({"tests": {"input": SUM["inputs"], "output": SUM["outputs"]}}, py(READ), 1.0),
    ({"tests": {"input": SUM["inputs"], "output": SUM["outputs"]}}, py("print(6)"), 0.0),
    ({"reward_model": {"style": "rule", "ground_truth": "42"}}, py(READ), None),
    ({"ground_truth": "42"}, py(DEF), None),
    ({"ground_truth": "{}"}, py(DEF), None),
    ({"public_test_cases": json.dumps(CALL_CASES)}, py(DEF), None),
    ({"public_test_cases": json.dumps(CALL_CASES + STDIN_CASES), "metadata": NAMED}, py(DEF), None),
    (
        {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(print))).decode(), "metadata": NAMED},
        py(DEF),
        None,
    ),
    ({"private_test_cases": "no cases"}, py(DEF), None),
]

CROSSING = [
    ("from collections import deque\ndef f(): return deque([1, 2])", "assert list(f()) == [1, 2]", 1.0),
    ("from collections import deque\ndef f(): return deque([1, 2])", "assert f() == [1, 2]", 0.0),
    ("def f(q): return [0, *q]", "from collections import deque\nassert f(deque([1])) == [0, 1]", 1.0),
    (
        "def f(c): return c.most_common(1)",
        "from collections import Counter\nassert f(Counter('aab')) == [('a', 2)]",
        1.0,
    ),
    ("def f(d): return d[3]", "from collections import defaultdict\nassert f(defaultdict(int)) == 0", 1.0),
    ("def f(d): return d.keys()", "assert f({1: 2}) == {1}", 1.0),
    ("def f(d): return d.values()", "assert list(f({1: 2})) == [2]", 1.0),
    ("def f(d): return d.items()", "assert sorted(f({1: 2})) == [(1, 2)]", 1.0),
    ("def f(): return bytearray(b'ab')", "assert f() == b'ab'", 1.0),
    ("from array import array\ndef f(): return array('i', [1, 2])", "assert list(f()) == [1, 2]", 1.0),
    (
        "class E(ValueError): pass\ndef f(): raise E('below zero')",
        "try:\n    f()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'below zero'",
        1.0,
    ),
    ("def f(): return object()", "try:\n    f()\n    assert False\nexcept ValueError:\n    pass", 0.0),
    (
        "from fractions import Fraction\ndef f(n): return Fraction(n, 3)",
        "from fractions import Fraction\nassert f(2) == Fraction(2, 3)",
        1.0,
    ),
    (
        "from fractions import Fraction\nclass F(Fraction):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(n): return F(n, 4)",
        "from fractions import Fraction\nassert f(2) == Fraction(2, 3)",
        0.0,
    ),
    (
        "from decimal import Decimal\ndef f(n): return Decimal(n) / 8",
        "from decimal import Decimal\nassert f(1) == Decimal('0.125') and str(f(8)) == '1'",
        1.0,
    ),
    (
        "import datetime as d\ndef f(n): return d.date(2024, 2, 28) + d.timedelta(n)",
        "import datetime\nassert f(1) == datetime.date(2024, 2, 29)",
        1.0,
    ),
    (
        "import datetime as d\ndef f(t): return {t: t - d.timedelta(hours=1)}",
        "from datetime import *\nt = datetime(2024, 1, 1, tzinfo=timezone.utc)\nassert f(t) == {t: datetime(2023, 12, 31, 23, tzinfo=timezone.utc)}",
        1.0,
    ),
    (
        "import datetime as d\nclass D(d.date):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(n): return D(1, 1, 1)",
        "import datetime\nassert f(1) == datetime.date(2024, 2, 29)",
        0.0,
    ),
    (
        "def f(n): return ({1, n}, frozenset({n}), (n, [n]), {n: {2.5: b'x'}}, 1j * n)",
        "assert f(2) == ({1, 2}, frozenset({2}), (2, [2]), {2: {2.5: b'x'}}, 2j)",
        1.0,
    ),
    ("def f(n): return [n, [n]]", "assert f(2) == (2, [2])", 0.0),
    (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(n): return P(n, 2)",
        "assert f(1) == (1, 2) and f(1).x == 1 and f(1).y == 2",
        1.0,
    ),
    (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    def __eq__(self, other): return True\ndef f(n): return P(n)",
        "assert f(1) == (2,)",
        0.0,
    ),
    (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(n): return P(n + 1)",
        "assert f(1).x == 2 and f(1) == f(1) != f(2)",
        1.0,
    ),
    (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    def __eq__(self, other): return True\ndef f(n): return P(n)",
        "assert f(1) == 2 or f(1) == f(2)",
        0.0,
    ),
    (
        "from multiprocessing.pool import ThreadPool\ndef g(x): return x * x\ndef f(n):\n    with ThreadPool() as p: return p.map(g, range(n))",
        "assert f(3) == [0, 1, 4]",
        1.0,
    ),
]
