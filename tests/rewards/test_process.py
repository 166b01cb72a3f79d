import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from redraft.rewards.processes.errors import (
    RemoteError,
    WorkerClosedError,
    WorkerDiedError,
    WorkerStartError,
    WorkerTimeoutError,
)
from redraft.rewards.processes.pool import WorkerPool
from redraft.rewards.processes.worker import State, Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_until_dead(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_a_worker_starts_with_the_first_call_and_stays_warm(worker):
    assert worker.pid is None
    first = worker.call("os:getpid", (), timeout_s=20)
    assert first == worker.call("os:getpid", (), timeout_s=20) == worker.pid


def test_a_call_past_its_deadline_is_killed_and_the_next_one_is_answered(worker):
    hung = worker.call("os:getpid", (), timeout_s=20)
    with pytest.raises(WorkerTimeoutError, match=r"within 0.2 s"):
        worker.call("time:sleep", (600,), timeout_s=0.2)
    assert wait_until_dead(hung, 0)
    assert worker.call("operator:add", (1, 2), timeout_s=20) == 3


def test_code_that_holds_the_interpreter_lock_is_killed_too(worker):
    worker.call("os:getpid", (), timeout_s=20)
    with pytest.raises(WorkerTimeoutError):
        worker.call("operator:pow", (9, 9**9), timeout_s=0.2)


def test_a_deadline_holds_while_the_worker_does_not_read_its_request(worker):
    os.kill(worker.call("os:getpid", (), timeout_s=20), signal.SIGSTOP)
    with pytest.raises(WorkerTimeoutError):
        worker.call("builtins:len", ("x" * 50_000_000,), timeout_s=0.3)


def test_a_worker_killed_between_calls_is_replaced_without_an_error(worker):
    os.kill(worker.call("os:getpid", (), timeout_s=20), signal.SIGKILL)
    assert worker.call("operator:add", (1, 2), timeout_s=20) == 3


def test_a_call_that_kills_its_worker_every_time_is_an_error_that_says_how(worker):
    with pytest.raises(WorkerDiedError, match="exit code 3"):
        worker.call("os:_exit", (3,), timeout_s=20)
    with pytest.raises(WorkerDiedError, match="SIGSEGV"):
        worker.call("signal:raise_signal", (int(signal.SIGSEGV),), timeout_s=20)


@pytest.mark.parametrize(
    ("target", "args", "summary"),
    [
        ("operator:truediv", (1, 0), "ZeroDivisionError: division by zero"),
        ("sys:exit", (0,), "SystemExit: 0"),
        ("no_such_module:f", (), "ModuleNotFoundError: No module named 'no_such_module'"),
        ("builtins:object", (), "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_an_exception_in_the_worker_comes_back_with_its_traceback_and_the_worker_lives(worker, target, args, summary):
    pid = worker.call("os:getpid", (), timeout_s=20)
    with pytest.raises(RemoteError) as caught:
        worker.call(target, args, timeout_s=20)
    assert caught.value.summary == summary
    assert "Traceback" in str(caught.value)
    assert worker.pid == pid


def test_printing_does_not_disturb_the_protocol_and_reaches_the_log(worker, capfd):
    assert worker.call("builtins:print", ("said in the worker",), timeout_s=20) is None
    assert worker.call("os:write", (1, b"raw bytes\n"), timeout_s=20) == 10
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "said in the worker\nraw bytes\n"


def test_reading_standard_input_ends_at_once(worker):
    with pytest.raises(RemoteError, match="EOFError"):
        worker.call("builtins:input", (), timeout_s=20)


def test_startup_runs_in_every_fresh_process_outside_the_deadline_of_the_call():
    worker = Worker("time:sleep", (0.5,))
    try:
        assert worker.call("operator:add", (1, 2), timeout_s=0.3) == 3
    finally:
        worker.close()


def test_a_startup_that_hangs_or_dies_says_that_the_worker_never_became_ready():
    with pytest.raises(WorkerStartError, match=r"not become ready: no reply within 0.3 s"):
        Worker("time:sleep", (60,), startup_timeout_s=0.3).start()
    with pytest.raises(WorkerStartError, match="exit code 3"):
        Worker("os:_exit", (3,)).start()


def test_arguments_of_a_startup_that_cannot_be_pickled_start_no_process():
    worker = Worker("builtins:len", (lambda: None,))
    for _ in range(2):
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            worker.start()
        assert (worker.pid, worker.state) == (None, State.ABSENT)


@pytest.mark.parametrize("state", [State.STARTING, State.READY])
def test_an_interrupted_start_leaves_no_process_and_the_next_one_runs_the_startup_function(monkeypatch, state):
    worker = Worker("os:getpid")
    pids = []

    def interrupted(reached, child):
        pids.append(child.pid)
        raise KeyboardInterrupt

    try:
        if state is State.STARTING:
            monkeypatch.setattr(worker, "_exchange", lambda child, *_: interrupted(state, child))
        else:
            monkeypatch.setattr(worker, "_enter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.start()
        assert (worker.pid, worker.state) == (None, State.ABSENT)
        assert wait_until_dead(pids[0], 0)
        monkeypatch.undo()
        assert worker.start() == worker.pid
    finally:
        worker.close()


@pytest.mark.parametrize("state", [State.STARTING, State.BUSY])
def test_a_process_that_an_interruption_left_behind_gets_no_call(worker, state):
    left = worker.call("os:getpid", (), timeout_s=20)
    worker.state = state  # Ctrl-C came between two lines, where nothing catches it
    assert worker.call("os:getpid", (), timeout_s=20) == worker.pid != left
    assert wait_until_dead(left, 0)


def test_calls_work_from_the_main_thread_plain_threads_and_inside_asyncio(worker):
    def hang_then_answer() -> int:
        with pytest.raises(WorkerTimeoutError):
            worker.call("time:sleep", (60,), timeout_s=0.1)
        return worker.call("operator:add", (1, 2), timeout_s=20)

    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(hang_then_answer()))
    thread.start()
    thread.join()

    async def in_the_loops_own_thread() -> int:
        return hang_then_answer()

    assert [hang_then_answer(), *answers, asyncio.run(in_the_loops_own_thread())] == [3, 3, 3]


def test_a_pool_runs_calls_at_the_same_time_on_its_workers(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening one end waits for the other end
    ends = [("os:open", (str(tmp_path / "pipe"), flag), 20) for flag in (os.O_RDONLY, os.O_WRONLY)]
    pool = WorkerPool(2)
    try:
        pool.call("os:getpid", (), 20)
        for _ in range(2):  # the second pair finds two warm workers
            threads, opened = in_threads(pool.call, *ends)
            assert join_within(threads, 60)
            assert [type(one) for one in opened] == [int, int]
        with pytest.raises(WorkerTimeoutError):
            pool.call("time:sleep", (20,), 0.1)
        warm = [worker.pid for worker in pool.workers if worker.pid is not None]
        assert len(warm) == 1
        assert pool.call("os:getpid", (), 20) == warm[0]  # rather than wait for a new process
    finally:
        pool.close()


def test_closing_leaves_no_process_and_no_zombie(worker):
    pid = worker.call("os:getpid", (), timeout_s=20)
    worker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert worker.pid is None


def children() -> set[int]:
    """Processes whose parent we are, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rpartition(") ")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def in_threads(call, *argument_tuples):
    """Start the calls; the threads, and the list that gets what each raised or returned."""
    outcomes = []

    def one(*args):
        try:
            outcomes.append(call(*args))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=args) for args in argument_tuples]
    for thread in threads:
        thread.start()
    return threads, outcomes


def join_within(threads, seconds):
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def test_closing_ends_the_call_under_way_and_those_behind_it_at_once_and_a_later_call_works(worker):
    pid = worker.call("os:getpid", (), timeout_s=20)
    threads, outcomes = in_threads(worker.call, *[("time:sleep", (600,), 900)] * 3)
    time.sleep(0.3)
    worker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert join_within(threads, 20)
    assert [type(outcome) for outcome in outcomes] == [WorkerClosedError] * 3
    assert worker.pid is None
    assert worker.call("operator:add", (1, 2), timeout_s=20) == 3


def test_closing_ends_a_call_whose_connection_is_held_by_a_process_that_left_the_group(worker, tmp_path):
    script = f"setsid sleep 60 & echo $! > {tmp_path}/pid; sleep 60"
    worker.call("os:getpid", (), timeout_s=20)
    threads, outcomes = in_threads(worker.call, ("os:system", (script,), 60))
    assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20)
    time.sleep(0.2)  # setsid
    worker.close()
    assert join_within(threads, 3.0)
    assert [type(outcome) for outcome in outcomes] == [WorkerClosedError]
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_closing_ends_a_start_under_way():
    worker = Worker("time:sleep", (30,))
    threads, outcomes = in_threads(worker.start, ())
    assert wait_until(lambda: worker.pid is not None, 20)
    pid = worker.pid
    worker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert join_within(threads, 1.0)
    assert [type(outcome) for outcome in outcomes] == [WorkerClosedError]


def test_closing_at_any_moment_of_a_start_or_a_call_leaves_no_process():
    before, ended = children(), []
    for step in range(40):
        worker = Worker()
        threads, outcomes = in_threads(worker.call, ("time:sleep", (30,), 60))
        while not worker._turn.locked():
            time.sleep(0)
        time.sleep(0.003 * step)
        worker.close()
        assert children() <= before
        assert join_within(threads, 2.0)
        assert children() <= before
        ended += outcomes
    assert [type(outcome) for outcome in ended] == [WorkerClosedError] * 40


def test_closing_a_pool_ends_the_calls_on_its_workers_and_those_that_wait_for_one():
    pool = WorkerPool(2)
    threads, outcomes = in_threads(pool.call, *[("time:sleep", (30,), 60)] * 4)
    time.sleep(0.5)
    pool.close()
    assert join_within(threads, 1.0)
    assert [type(outcome) for outcome in outcomes] == [WorkerClosedError] * 4
    assert [worker.pid for worker in pool.workers] == [None, None]
    try:
        assert pool.call("operator:add", (1, 2), 20) == 3
    finally:
        pool.close()


def test_what_a_worker_started_dies_with_it(worker, tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    worker.call("os:getpid", (), timeout_s=20)  # its start would count against the deadline
    with pytest.raises(WorkerTimeoutError):
        worker.call("os:system", (script,), timeout_s=1.0)
    assert wait_until_dead(int((tmp_path / "pid").read_text()), 2)


PARENT = """
import os, signal, sys, threading
from redraft.rewards.processes.worker import Worker
worker = Worker()
worker.call("os:getpid", (), timeout_s=20)
print(worker.pid, flush=True)
call = threading.Thread(target=worker.call, args=({target!r}, {args!r}, 60), daemon=True)
call.start()
call.join(0.3)
{end}
"""


@pytest.mark.parametrize(
    ("target", "args", "end"),
    [
        ("time:sleep", (60,), "os.kill(os.getpid(), signal.SIGKILL)"),
        ("operator:pow", (9, 9**9), "os.kill(os.getpid(), signal.SIGKILL)"),  # holds the interpreter lock
        ("builtins:print", ("",), "os._exit(1)"),
        ("time:sleep", (60,), "sys.exit(0)"),
    ],
)
def test_a_worker_dies_with_its_parent_however_the_parent_ends(target, args, end):
    program = PARENT.format(target=target, args=args, end=end)
    parent = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert wait_until_dead(int(parent.stdout), 2)
