import errno
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from redraft.rl.config.recipe import load_recipe
from redraft.rl.data.codec import Codec
from redraft.rl.learner.state import learner_state
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.models.registry import load_text_side
from redraft.rl.run_folder.checkpoint import (
    MANIFEST,
    CheckpointNotFoundError,
    complete_checkpoints,
    find_policy,
    newest_checkpoint,
    read_state,
    save_checkpoint,
    warm_start_policy,
)
from tiny import largest_file, make_policy, write_recipe


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


def test_checkpoints_are_ordered_by_number(tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        save(tmp_path, step)
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step_1000000", "step_1000001"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == newest_checkpoint(tmp_path).name == "step_1000001"


COPIES = ("step_000002_best", "step_000009.bak", "step_", "step_2x", "my step_000003", ".step_best.partial")


def test_copies_that_somebody_keeps_are_never_read_counted_or_removed(tmp_path):
    saved = save(tmp_path, 2)
    for name in COPIES:
        shutil.copytree(saved, saved.with_name(name))
    shutil.copytree(saved, saved.with_name("step_000009"))  # its manifest tells that it is no step 9
    for step in (3, 4, 5):
        save(tmp_path, step)
        assert newest_checkpoint(tmp_path).name == f"step_00000{step}"
    there = {path.name for path in saved.parent.iterdir()}
    assert there == {*COPIES, "step_000009", "step_000004", "step_000005", "latest"}


def test_the_newest_policy_is_found_or_what_there_is_instead(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such run or policy folder"):
        find_policy(tmp_path / "nowhere")
    with pytest.raises(CheckpointNotFoundError, match=r"no complete checkpoint; train first"):
        find_policy(tmp_path)
    (tmp_path / "sft" / "hf").mkdir(parents=True)
    assert find_policy(tmp_path) == warm_start_policy(tmp_path) == tmp_path / "sft" / "hf"
    with pytest.raises(CheckpointNotFoundError, match=rf"no complete checkpoint; its warm start is {tmp_path}/sft/hf"):
        find_policy(tmp_path, 3)
    for step in (4, 8):
        save(tmp_path, step)
    assert find_policy(tmp_path) == tmp_path / "checkpoints" / "step_000008" / "hf"
    assert find_policy(tmp_path, 4) == tmp_path / "checkpoints" / "step_000004" / "hf"
    with pytest.raises(CheckpointNotFoundError, match="no complete checkpoint of step 6; there are those of 4, 8"):
        find_policy(tmp_path, 6)
    for step in (4, 8):
        (tmp_path / "checkpoints" / f"step_00000{step}" / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"incomplete: step_000004, step_000008; its warm start is"):
        find_policy(tmp_path)


def test_a_checkpoint_and_a_policy_can_be_exported_but_have_no_steps(tmp_path):
    saved = save(tmp_path, 4)
    (saved / "config.json").write_text("{}")  # the recipe, which makes a checkpoint no policy
    (tmp_path / "config.json").write_text("{}")  # of an export into the run folder, which stays a run
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    assert find_policy(saved) == saved / "hf"
    assert find_policy(tmp_path) == saved / "hf"
    assert find_policy(tmp_path / "policy") == tmp_path / "policy"
    for one in (saved, tmp_path / "policy"):
        with pytest.raises(ValueError, match="is one policy, without steps to choose from"):
            find_policy(one, 4)


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


def test_a_panic_of_a_writer_in_rust_on_a_full_disk_is_a_write_error_too(tmp_path):
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def fill(folder: str) -> None:
        raise PanicException("cannot save: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"cannot write checkpoint .*os error 28.*complete checkpoints: none"):
        save_checkpoint(tmp_path, 1, fill, {}, keep=1)


def test_what_a_killed_save_left_behind_is_no_obstacle(tmp_path):
    leftover = tmp_path / "checkpoints" / ".step_000002.partial"
    leftover.mkdir(parents=True)
    (leftover / "state").write_text("half")
    with pytest.raises(CheckpointNotFoundError, match="incomplete"):
        newest_checkpoint(tmp_path)
    assert save(tmp_path, 2) == newest_checkpoint(tmp_path)
    assert not leftover.exists()


def test_what_killed_saves_of_other_steps_left_behind_is_removed_too(tmp_path):
    (tmp_path / "checkpoints" / ".step_000001.partial" / "hf").mkdir(parents=True)
    save(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step_000002"]


def test_everything_is_on_the_disk_before_a_checkpoint_gets_its_name(tmp_path, monkeypatch):
    synced, before_rename = [], {}
    replace = os.replace

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def rename(source: Path, target: Path) -> None:
        before_rename[Path(target).name] = list(synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    final = save(tmp_path, 1)
    partial = final.with_name(".step_000001.partial")
    names = {path.relative_to(final) for path in (final, *final.rglob("*"))}
    assert {str(partial / name) for name in names} == set(before_rename["step_000001"])
    assert str(final.parent) in before_rename["latest"]  # the new name is on the disk before anything points to it


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a bug")])
def test_what_is_no_write_error_passes_unchanged_and_leaves_nothing_half(tmp_path, error):
    save(tmp_path, 1)

    def fail(folder: str) -> None:
        write(folder)
        raise error

    with pytest.raises(type(error)) as raised:
        save_checkpoint(tmp_path, 2, fail, {}, keep=2)
    assert raised.value is error
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step_000001"]


@pytest.fixture(scope="module")
def learner(tmp_path_factory) -> tuple[LearnerWorker, Codec]:
    folder = tmp_path_factory.mktemp("learner")
    path = str(make_policy(folder / "policy"))
    tokenizer, tokens = load_text_side(path)
    return LearnerWorker(path, load_recipe([write_recipe(folder)], []), tokens), Codec(tokenizer, 0)


# The weights take 37 kB, the learner's state 280 kB, the tokenizer 3 kB. The archive writer of torch reports the same
# full disk in another way depending on where it strikes.
@pytest.mark.parametrize(
    ("room", "room_for_tokenizer"),
    [(1000, 1000), (40_000, 40_000), (100_000, 100_000), (250_000, 250_000), (400_000, 1000), (400_000, 100)],
    ids=["weights", "state", "state, later", "state, at its end", "tokenizer", "tokenizer, at once"],
)
def test_a_full_disk_in_any_part_of_a_real_checkpoint_is_one_clear_error(tmp_path, learner, room, room_for_tokenizer):
    worker, codec = learner

    def write_real(folder: str) -> None:
        with largest_file(room):
            worker.save(folder)
        with largest_file(room_for_tokenizer):
            codec.save_tokenizer(f"{folder}/hf")

    def write_all(folder: str) -> None:
        worker.save(folder)
        codec.save_tokenizer(f"{folder}/hf")

    save_checkpoint(tmp_path, 1, write_all, {}, keep=1)
    with pytest.raises(
        OSError,
        match=r"step_000002: .*File too large.*; complete checkpoints: step_000001; make room, .* with --resume",
    ) as raised:
        save_checkpoint(tmp_path, 2, write_real, {}, keep=1)
    assert str(raised.value).startswith(f"cannot write checkpoint {tmp_path}")
    assert "Errno" not in str(raised.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step_000001"]
    worker.load(str(newest_checkpoint(tmp_path)))
    assert save_checkpoint(tmp_path, 2, write_all, {}, keep=1) == newest_checkpoint(tmp_path)
    worker.load(str(newest_checkpoint(tmp_path)))


def state_of(worker: LearnerWorker) -> list:
    optimizer = worker.learner.optimizer.state_dict()
    moments = [value.clone() for kinds in optimizer["state"].values() for value in kinds.values()]
    return [*moments, *(group["rate_scale"] for group in optimizer["param_groups"])]


def test_a_save_before_the_first_step_leaves_the_optimizer_as_it_was(tmp_path):
    path = str(make_policy(tmp_path / "policy"))
    _, tokens = load_text_side(path)
    worker = LearnerWorker(path, load_recipe([write_recipe(tmp_path)], []), tokens)
    before = state_of(worker)
    worker.save(str(tmp_path / "saved"))
    after = state_of(worker)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(before, after, strict=True))
    assert not any(entry["step"].item() for entry in worker.learner.optimizer.state.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"momentum_of_old": 1.0}, r"holds what the learner does not take: momentum_of_old"),
        (lambda state: {key: state[key] for key in state if key != "policy_version"}, "lacks policy_version"),
        (lambda state: {key: state[key] for key in state if key != "expert_order"}, "lacks expert_order"),
        (
            lambda state: state | {"optimizer": without_scale(state["optimizer"])},
            r"lacks optimizer\.param_groups\.\*\.rate_scale",
        ),
    ],
)
def test_a_state_with_other_keys_than_the_learners_is_refused_by_their_names(tmp_path, learner, change, message):
    worker, _ = learner
    saved = change(learner_state(worker.learner))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_save(saved, checkpoint_id=tmp_path / "state", no_dist=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    with pytest.raises(ValueError, match=f"{tmp_path}/state {message}; it was written by another version") as raised:
        worker.load(str(tmp_path))
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before


def without_scale(optimizer: dict) -> dict:
    groups = [{key: group[key] for key in group if key != "rate_scale"} for group in optimizer["param_groups"]]
    return optimizer | {"param_groups": groups}


@pytest.mark.parametrize("damage", ["cut", "emptied", "metadata", "missing"])
def test_a_damaged_state_names_its_folder_and_what_to_do(tmp_path, learner, damage):
    worker, _ = learner
    worker.save(str(tmp_path))
    part, metadata = tmp_path / "state" / "__0_0.distcp", tmp_path / "state" / ".metadata"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:1000])
    elif damage == "emptied":
        part.write_bytes(b"")
    elif damage == "metadata":
        metadata.write_bytes(metadata.read_bytes()[:1000])
    else:
        shutil.rmtree(tmp_path / "state")
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/state cannot be read \(.+\); remove {tmp_path} to resume"
    ) as raised:
        worker.load(str(tmp_path))
    assert "Traceback" not in str(raised.value)
