"""Signals that ask a run to stop: after the step, with a checkpoint."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

ASK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def hangup_ignored() -> Iterator[None]:
    """Ignore SIGHUP inside, so that processes started there inherit that and outlive a closed terminal.

    Otherwise Ray's processes would end before the run could save what they hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C, SIGTERM and a closed terminal ask for a stop after the step.

    A second Ctrl-C or SIGTERM stops at once. SIGHUP asks for a stop, but never counts as the second signal: a closing
    terminal sends it more than once, possibly with a SIGTERM. Where SIGHUP is ignored, as under `nohup`, it stays
    ignored.
    """
    asked, impatient = threading.Event(), threading.Event()

    def ask(signum: int, frame: object) -> None:
        if signum != signal.SIGHUP:
            if impatient.is_set():
                raise KeyboardInterrupt
            impatient.set()
        asked.set()
        logger.warning("stopping after this step, with a checkpoint; once more stops at once, without")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    ours = [number for number in ASK if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in ours}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
