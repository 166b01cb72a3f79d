"""A SandboxFusion server as the sandbox: a small real one, which runs what it is sent."""

import contextlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from code_rows import fenced, score
from redraft.rewards.library.code.fusion import _MAX_REPLY_BYTES
from redraft.rewards.result import RewardError


class Handler(BaseHTTPRequestHandler):
    broken = None  # (status code, body) to answer instead

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        code, reply = self.server.broken or (200, json.dumps(run(body) if self.path == "/run_code" else None).encode())
        self.send_response(code)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have read enough
            self.wfile.write(reply)

    def log_message(self, *_):
        pass


def run(body):
    assert body["language"] == "python"
    command = [sys.executable, "-c", body["code"]]
    try:
        done = subprocess.run(command, input=body["stdin"].encode(), capture_output=True, timeout=body["run_timeout"])
    except subprocess.TimeoutExpired:
        return {"status": "Failed", "message": "", "run_result": {"status": "TimeLimitExceeded", "return_code": None}}
    result = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout.decode(), "stderr": ""}
    return {"status": "Failed" if done.returncode else "Success", "message": "", "run_result": result}


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.broken = None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote(server):
    def outcomes(row, *codes, **kwargs):
        url = f"http://127.0.0.1:{server.server_port}/"
        verdicts = score(row, [fenced(code) for code in codes], "http", sandbox_fusion_url=url, **kwargs)
        return [(verdict.score, str(verdict.status)) for verdict in verdicts]

    yield outcomes
    server.broken = None


ECHO = {"inputs": ["1\n", "é\n"], "outputs": ["1", "é"]}
ADD = {"fn_name": "add", "inputs": [[1, 2], [[1], [2.5]]], "outputs": [3, [1, 2.5]]}


def test_programs_run_on_the_server_and_are_judged_here(remote):
    codes = ["print(input())", "print(1)", "print(input())\nraise SystemExit(3)", "import os\nos._exit(0)"]
    assert remote(ECHO, *codes) == [(1.0, "ok"), (0.0, "wrong"), (0.0, "wrong"), (0.0, "wrong")]


def test_calls_run_on_the_server_and_their_values_are_judged_here(remote):
    codes = [
        "print('noise')\ndef add(a, b):\n    print('more')\n    return a + b\n",
        "def add(a, b):\n    return a\n",
        "class Any:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Any()\n",
        "import sys\nsys.exit(0)\n",
        "import os\nos._exit(0)\n",
        "def add(a, b):\n    raise ValueError\n",
        "import os\nfor n in range(3, 9):\n    try: os.write(n, b'passed\\n')\n    except OSError: pass\nos._exit(0)",
    ]
    assert remote(ADD, *codes) == [(1.0, "ok")] + [(0.0, "wrong")] * 6


def test_a_program_over_the_servers_limit_is_a_timeout(remote):
    assert remote({"inputs": ["1"], "outputs": ["1"]}, "while True: pass", timeout_s=0.2) == [(0.0, "timeout")]


def test_assertions_need_a_local_sandbox(remote):
    with pytest.raises(RewardError, match=r"row 0: sandbox: http cannot run assert tests"):
        remote({"test_list": ["assert add(1, 2) == 3"]}, "def add(a, b):\n    return a + b\n")


BROKEN = [
    (500, b"no"),
    (200, b"no json"),
    (200, b"[]"),
    (200, b"{}"),
    (200, b'{"status": "SandboxError", "message": "no memory", "run_result": {"status": "Error"}}'),
    (200, b'{"status": "Success", "run_result": {"status": "Finished", "stdout": 5, "return_code": 0}}'),
    (200, b'{"status": "Success", "run_result": {"status": "Finished", "stdout": "1"}}'),
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("row", [ECHO, ADD])
def test_a_server_that_fails_is_not_the_candidates_fault(broken, row, remote, server):
    server.broken = broken
    assert remote(row, "print(1)") == [(None, "infra_error")]


@pytest.mark.parametrize("row", [ECHO, ADD])
def test_a_reply_over_the_limit_is_what_the_program_printed(row, remote, server):
    body = json.dumps({"run_result": {"status": "Finished", "return_code": 0, "stdout": "1" * _MAX_REPLY_BYTES}})
    server.broken = (200, body.encode())
    assert remote(row, "print(1)") == [(0.0, "wrong")]


def test_a_server_that_is_down_is_not_the_candidates_fault():
    (verdict,) = score(ECHO, [fenced("print(1)")], "http", sandbox_fusion_url="http://127.0.0.1:9")
    assert (verdict.score, str(verdict.status)) == (None, "infra_error")
    assert "Connection refused" in verdict.detail


def test_an_address_without_a_scheme_is_an_error():
    with pytest.raises(RewardError, match="http://host:port"):
        score(ECHO, [fenced("print(1)")], "http", sandbox_fusion_url="localhost:8080")
