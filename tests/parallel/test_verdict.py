"""One process fails by itself; test_sharded_files.py shows that ranks fail together."""

import pytest

from redraft.rl.parallel.lockstep import Alone
from redraft.rl.parallel.verdict import check_shared_folder, fail_together


def test_one_process_shares_every_folder_with_itself(tmp_path):
    check_shared_folder(tmp_path / "deep" / "run", Alone())
    assert not list((tmp_path / "deep" / "run").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_shared_folder(tmp_path / "file" / "run", Alone())


def test_an_error_of_one_process_is_its_own():
    error = KeyError("a key")
    with pytest.raises(KeyError) as raised, fail_together(Alone()):
        raise error
    assert raised.value is error
