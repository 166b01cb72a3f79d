"""Packages inside the sandbox, by name: numpy, which is installed wherever this is; and processes of the library."""

import contextlib

import pytest

from code_rows import KINDS, fenced, require, score
from redraft.rewards.library.code.options import CodeOptions
from redraft.rewards.result import RewardError
from redraft.rewards.sandbox.choose import open_sandbox
from redraft.rewards.sandbox.packages import NONE, Packages, check_packages
from redraft.rewards.sandbox.program import SandboxError


@pytest.fixture(params=KINDS)
def kind(request):
    require(request.param)
    return request.param


TIMES = {"test_list": ["assert np.allclose(times(np.array([1.5, 2.0])), [3, 4]) and times(np.eye(2)).shape == (2, 2)"]}
TIMES |= {"test_imports": ["import numpy as np"]}
LIAR = """
import numpy as np
class Equal(np.ndarray):
    def __eq__(self, other): return True
    def __array_function__(self, *args): return True
def times(x): return np.zeros(x.shape).view(Equal)
"""
LIAR_SCALAR = "import numpy as np\nclass Equal(np.float64):\n    def __eq__(self, other): return True\n"


def test_numpy_is_importable_where_it_is_named(kind):
    codes = [
        "import numpy as np\ndef times(x): return np.asarray(x) * 2",
        "def times(x): return x + x",
        LIAR,
        LIAR_SCALAR + "def times(x): return Equal(3)",
        "import torch\ndef times(x): return x + x",
        "import numpy as np\ndef times(x): return np.array([print, len], dtype=object)",
        "import numpy as np\nnp.allclose = lambda *_: True\ndef times(x): return x",
    ]
    verdicts = score(TIMES, [fenced(code) for code in codes], kind, packages=["numpy"])
    assert [verdict.score for verdict in verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], verdicts
    row = {"fn_name": "f", "inputs": [[[1, 2]], [[3]]], "outputs": [[2, 4], [6]]}
    codes = ["return np.array(x) * 2", "return [np.int64(v) * 2 for v in x]", "return np.array(x) * 2.5"]
    codes = [fenced(f"import numpy as np\ndef f(x):\n    {code}") for code in codes]
    assert [verdict.score for verdict in score(row, codes, kind, packages=["numpy"])] == [1.0, 1.0, 0.0]
    program = "import numpy as np\nprint(int(np.linalg.det(np.eye(200)) + np.array(input().split(), int).sum()))"
    (verdict,) = score({"inputs": ["1 2"], "outputs": ["4"]}, [fenced(program)], kind, packages=["numpy"])
    assert verdict.score == 1.0, verdict


def test_no_package_is_importable_where_none_is_named(kind):
    (verdict,) = score({"inputs": ["1"], "outputs": ["1"]}, [fenced("import numpy\nprint(1)")], kind)
    assert verdict.score == 0.0
    assert "No module named 'numpy'" in verdict.detail


def test_a_package_in_a_folder_that_nobody_else_may_read_is_importable(kind, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "__init__.py").write_text("value = 7\n")
    tmp_path.chmod(0o700)
    monkeypatch.setattr("redraft.rewards.sandbox.packages._places", lambda name: [tmp_path / name])
    with contextlib.closing(open_sandbox(kind, allow_unsafe=True, packages=["tiny"])) as sandbox:
        check_packages(sandbox, sandbox.packages)


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(SandboxError, match="packages: 'no_such_package' is not installed here"):
        open_sandbox("unsafe", allow_unsafe=True, packages=["no_such_package"])


def test_a_package_that_cannot_be_imported_inside_is_named_with_the_reason():
    sandbox = open_sandbox("unsafe", allow_unsafe=True)
    packages = Packages(["numpy"])
    assert sandbox.packages is NONE
    with pytest.raises(SandboxError, match=r"cannot import numpy: ModuleNotFoundError.* version 3\."):
        check_packages(sandbox, packages)
    packages.close()


@pytest.mark.parametrize("packages", ["numpy", ""])
def test_packages_are_a_list_of_names(packages):
    with pytest.raises(RewardError, match="list of names"):
        CodeOptions(packages=packages)


def test_a_server_has_packages_of_its_own():
    with pytest.raises(RewardError, match="on the server"):
        CodeOptions(sandbox="http", sandbox_fusion_url="http://x", packages=["numpy"])


@pytest.mark.parametrize("tolerance", [-1e-6, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_of_at_least_zero(tolerance):
    with pytest.raises(RewardError, match="tolerance must be"):
        CodeOptions(tolerance=tolerance)


SQUARES = "def square(x): return x * x\n"
POOLS = {
    "pool": f"from multiprocessing import Pool\n{SQUARES}with Pool() as p:\n    print(sum(p.map(square, range(5))))",
    "executor": f"from concurrent.futures import ProcessPoolExecutor as P\n{SQUARES}"
    "with P() as p:\n    print(sum(p.map(square, range(5))))",
    "queue": "import multiprocessing as m\ndef put(q, x): q.put(x)\nq = m.Queue()\n"
    "p = m.Process(target=put, args=(q, 30))\np.start()\nprint(q.get())\np.join()",
}


@pytest.mark.parametrize("pool", POOLS)
def test_processes_work_where_the_layer_allows_them_and_fail_at_once_where_not(pool, kind):
    (verdict,) = score({"inputs": ["1"], "outputs": ["30"]}, [fenced(POOLS[pool])], kind)
    assert (verdict.score, str(verdict.status)) == ((0.0, "wrong") if kind == "landlock" else (1.0, "ok")), verdict
    assert kind != "landlock" or "PermissionError" in verdict.detail


def test_threads_work_in_every_layer(kind):
    code = f"from concurrent.futures import ThreadPoolExecutor as P\n{SQUARES}"
    code += "with P() as p:\n    print(sum(p.map(square, range(5))))"
    (verdict,) = score({"inputs": ["1"], "outputs": ["30"]}, [fenced(code)], kind)
    assert verdict.score == 1.0, verdict
