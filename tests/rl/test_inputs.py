"""What a run depends on and its checkpoints do not hold is noticed when it changes."""

import json
import shutil

import pytest

from redraft.rewards.term import RewardTerm
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.data.load import DataError
from redraft.rl.preflight.quarantine import read_quarantine
from redraft.rl.run import run_training
from redraft.rl.run_folder.checkpoint import read_state
from redraft.rl.run_folder.inputs import check_inputs, reward_files, run_inputs
from redraft.rl.run_folder.recorder import Recorder
from tiny import DECODE, make_policy, write_recipe

ROWS = [{"prompt": "1+1=", "ground_truth": "2"}, {"prompt": "1+2=", "ground_truth": "3"}]


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    return make_policy(folder / "one"), make_policy(folder / "two", seed=7)


@pytest.fixture
def place(tmp_path, policies):
    """A recipe with its policy, and a checkpoint's fingerprints of them."""
    shutil.copytree(policies[0], tmp_path / "policy")
    config = load_recipe([write_recipe(tmp_path)], [])
    write(tmp_path, inputs(tmp_path))
    return tmp_path, config


def inputs(folder, train=ROWS, held_out=ROWS[:1]):
    return run_inputs(load_recipe([folder / "recipe.yaml"], []), train, held_out, str(folder / "policy"))


def write(folder, content):
    (folder / "data.json").write_text(json.dumps(content))


def warnings_of(folder, now):
    told = []
    check_inputs(folder, now, told.append)
    return told


def test_nothing_is_said_while_nothing_changed(place):
    folder, _ = place
    assert warnings_of(folder, inputs(folder)) == []


@pytest.mark.parametrize(("which", "name"), [("train", "training rows"), ("held_out", "evaluation rows")])
def test_other_rows_are_refused(place, which, name):
    folder, _ = place
    with pytest.raises(DataError, match=rf"the {name} changed since .*; a resume would mix them"):
        check_inputs(folder, inputs(folder, **{which: [*ROWS, ROWS[0]]}), lambda text: None)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_another_first_policy_is_refused_by_its_files(place, policies, file):
    folder, _ = place
    if file == "model.safetensors":
        shutil.copy(policies[1] / file, folder / "policy" / file)
    else:
        content = json.loads((folder / "policy" / file).read_text())
        (folder / "policy" / file).write_text(json.dumps({**content, "added": 1}))
    with pytest.raises(DataError, match=rf"the first policy changed since \({file}\), which .* KL reference come from"):
        check_inputs(folder, inputs(folder), lambda text: None)


def test_a_file_that_joins_the_policy_is_noticed_and_a_readme_is_not(place):
    folder, _ = place
    (folder / "policy" / "README.md").write_text("notes")
    assert warnings_of(folder, inputs(folder)) == []
    (folder / "policy" / "added_tokens.json").write_text("{}")
    with pytest.raises(DataError, match=r"added_tokens\.json"):
        check_inputs(folder, inputs(folder), lambda text: None)


def test_a_changed_reward_file_is_a_warning_that_names_it(place):
    folder, _ = place
    (folder / "reward.py").write_text("def digits(prompts, completions, **columns):\n    return [1.0] * 3\n")
    (told,) = warnings_of(folder, inputs(folder))
    assert told.startswith(f"reward files changed since {folder.name}: {folder}/reward.py")


def test_other_versions_are_a_warning(place):
    folder, _ = place
    now = inputs(folder)
    write(folder, now | {"versions": now["versions"] | {"torch": "1.0"}})
    (told,) = warnings_of(folder, now)
    assert f"(torch was 1.0, now {now['versions']['torch']})" in told


def test_a_checkpoint_of_an_earlier_version_is_used_with_one_line(place):
    folder, _ = place
    now = inputs(folder)
    write(folder, {"fingerprint": now["fingerprint"]})
    (told,) = warnings_of(folder, now)
    assert "without fingerprints of evaluation rows, first policy, reward files, versions: not compared" in told


def test_reward_files_are_functions_modules_their_neighbours_and_files_in_arguments(tmp_path, monkeypatch):
    for name, text in {
        "main.py": "import json\nfrom helper import x\nfrom pack import part\nimport absent\n",
        "helper.py": "from . import deeper\nx = 1\n",
        "deeper.py": "import main\n",
        "pack/__init__.py": "",
        "pack/part.py": "",
        "unused.py": "",
        "words.txt": "a",
        "byname.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    kwargs = {"words": [str(tmp_path / "words.txt")], "text": "no file: at all", "other": "byname:function", "n": 1}
    terms = [RewardTerm(fn=f"{tmp_path}/main.py:f", kwargs=kwargs), RewardTerm(fn="math_accuracy")]
    names = ["byname.py", "deeper.py", "helper.py", "main.py", "pack/__init__.py", "pack/part.py", "words.txt"]
    assert reward_files(terms) == [tmp_path / name for name in names]


class Lines:
    def __init__(self):
        self.said = []

    def step(self, stage, step, metrics):
        pass

    def say(self, text):
        self.said.append(text)

    warn = say


def train(folder, *overrides, resume=False, **sections):
    config = load_recipe([write_recipe(folder, **sections)], ["trainer.save_steps=1", *overrides])
    lines = Lines()
    run_training(config, Recorder(config, lines), resume)
    return lines.said


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path, policies):
    shutil.copytree(policies[0], tmp_path / "policy")
    evaluation = tmp_path / "test.jsonl"
    evaluation.write_text('{"prompt": "20+2=", "ground_truth": "22"}\n')
    sections = {"evaluation": {"data": {"path": str(evaluation)}, "decode": DECODE}}
    settings = ("rollout.prompts_per_step=2", "algorithm.regulariser.kl.beta=0.5")
    train(tmp_path, "trainer.total_steps=1", *settings, **sections)
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shutil.copy(policies[1] / "model.safetensors", tmp_path / "policy")
    with pytest.raises(DataError, match=r"the first policy changed since \(model\.safetensors\)"):
        train(tmp_path, "trainer.total_steps=2", *settings, resume=True, **sections)
    shutil.copy(policies[0] / "model.safetensors", tmp_path / "policy")
    evaluation.write_text(evaluation.read_text() + '{"prompt": "20+3=", "ground_truth": "23"}\n')
    with pytest.raises(DataError, match="the evaluation rows changed since"):
        train(tmp_path, "trainer.total_steps=2", *settings, resume=True, **sections)
    shutil.move(tmp_path / "policy", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="the run's first policy is gone; put it back to resume"):
        train(tmp_path, "trainer.total_steps=2", *settings, resume=True, **sections)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    shutil.move(evaluation, tmp_path / "moved.jsonl")
    (tmp_path / "moved.jsonl").write_text('{"prompt": "20+2=", "ground_truth": "22"}\n')
    moved = (f"model.path={tmp_path}/elsewhere", f"evaluation.data.path={tmp_path}/moved.jsonl")
    train(tmp_path, "trainer.total_steps=2", *settings, *moved, resume=True, **sections)


def test_a_damaged_file_of_a_run_is_named(tmp_path):
    saved = tmp_path / "checkpoints" / "step_000001"
    saved.mkdir(parents=True)
    (saved / "trainer.json").write_text("{")
    with pytest.raises(ValueError, match=rf"^{saved}/trainer.json cannot be read \(.*\); remove {saved} to resume"):
        read_state(saved, "trainer.json")
    with pytest.raises(ValueError, match=rf"^{saved}/data.json cannot be read \(No such file or directory\)"):
        read_state(saved, "data.json")
    for damaged in ("{", "[]", '{"index": 1}'):
        (tmp_path / "quarantine.jsonl").write_text(damaged)
        with pytest.raises(ValueError, match=rf"^{tmp_path}/quarantine.jsonl is damaged"):
            read_quarantine(tmp_path)


SFT = {"data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}, "max_steps": 1, "batch_size": 4}


def test_a_recipe_with_a_path_and_a_warm_start_goes_on_from_what_redraft_sft_made(tmp_path, policies):
    from redraft.rl.run import run_sft

    shutil.copytree(policies[0], tmp_path / "policy")
    sections = {"sft": SFT, "evaluation": None}
    said = train(tmp_path, "trainer.total_steps=1", f"output_dir={tmp_path}/before", **sections)
    assert f"starting from {tmp_path}/policy (model.path); the sft section runs only with redraft sft, before" in said
    config = load_recipe([write_recipe(tmp_path, **sections)], [])
    made = run_sft(config, Recorder(config, Lines()))
    said = train(tmp_path, "trainer.total_steps=1", **sections)
    assert f"starting from {made}, which redraft sft made from model.path" in said
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    kept = json.loads((checkpoint / "data.json").read_text())["policy"]
    assert kept == run_inputs(config, ROWS, ROWS, str(made))["policy"]
    train(tmp_path, "trainer.total_steps=2", resume=True, **sections)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copy(policies[1] / "model.safetensors", tmp_path / "policy")
    with pytest.raises(RecipeError, match="policy differ; delete"):
        train(tmp_path, "trainer.total_steps=1", **sections)
