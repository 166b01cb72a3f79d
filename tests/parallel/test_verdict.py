"""One process fails by itself; test_sharded_files.py shows that ranks fail together."""

import pytest

from redraft.rl.parallel.lockstep import Alone
from redraft.rl.parallel.verdict import fail_together


def test_an_error_of_one_process_is_its_own():
    error = KeyError("a key")
    with pytest.raises(KeyError) as raised, fail_together(Alone()):
        raise error
    assert raised.value is error
