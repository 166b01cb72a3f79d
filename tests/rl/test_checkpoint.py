import errno
import json
from pathlib import Path

import pytest

from rl.checkpoint import (
    MANIFEST,
    CheckpointNotFoundError,
    complete_checkpoints,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)


def write(folder: str) -> None:
    (Path(folder) / "state").mkdir()
    (Path(folder) / "state" / "weights").write_bytes(b"12345")


def save(run: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(run, step, write, {"trainer.json": {"step": step}}, keep)


def test_a_checkpoint_is_complete_once_its_manifest_is_there(tmp_path):
    folder = save(tmp_path, 3)
    assert folder == tmp_path / "checkpoints" / "step_000003" == newest_checkpoint(tmp_path)
    assert json.loads((folder / MANIFEST).read_text())["files"] == {"state/weights": 5, "trainer.json": 14}
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000003"
    assert read_state(folder, "trainer.json") == {"step": 3}


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 3):
        save(tmp_path, step)
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step_000003", "step_000010"]


def test_a_checkpoint_with_a_lost_or_cut_file_does_not_count(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state" / "weights").write_bytes(b"123")
    assert newest_checkpoint(tmp_path).name == "step_000001"
    (tmp_path / "checkpoints" / "step_000001" / MANIFEST).unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"incomplete: step_000001, step_000002; start without --resume"):
        newest_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path):
    save(tmp_path, 1, keep=1)

    def fill(folder: str) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"step_000002: No space left on device; complete checkpoints: step_000001"):
        save_checkpoint(tmp_path, 2, fill, {}, keep=1)
    assert newest_checkpoint(tmp_path).name == "step_000001"
    assert not list((tmp_path / "checkpoints").glob(".*"))
    save(tmp_path, 2, keep=1)
    assert newest_checkpoint(tmp_path).name == "step_000002"


def test_what_a_killed_save_left_behind_is_no_obstacle(tmp_path):
    leftover = tmp_path / "checkpoints" / ".step_000002.partial"
    leftover.mkdir(parents=True)
    (leftover / "state").write_text("half")
    with pytest.raises(CheckpointNotFoundError, match="incomplete"):
        newest_checkpoint(tmp_path)
    assert save(tmp_path, 2) == newest_checkpoint(tmp_path)
    assert not leftover.exists()
