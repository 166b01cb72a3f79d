"""Which signals ask a run to stop, and which of them twice end it at once."""

import os
import signal
import subprocess
import sys

import pytest

from redraft.rl.cluster.stop_signal import hangup_ignored, stop_signal

pytestmark = pytest.mark.usefixtures("signals_of_a_terminal")


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_for_a_stop_and_its_handler_goes_with_the_run(number):
    before = signal.getsignal(number)
    with stop_signal() as stopping:
        assert not stopping()
        send(number)
        assert stopping()
    assert signal.getsignal(number) == before


def test_a_second_signal_of_a_person_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signal():
        send(signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP),
        (signal.SIGTERM, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_closing_terminal_sends_more_than_one_and_is_not_impatient(numbers):
    with stop_signal() as stopping:
        send(*numbers)
        assert stopping()


def test_under_nohup_a_closed_terminal_changes_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signal() as stopping:
            send(signal.SIGHUP)
            assert not stopping()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_children_that_are_started_meanwhile_outlive_a_closed_terminal():
    script = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    with hangup_ignored():
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.stdout == "alive\n"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGHUP
