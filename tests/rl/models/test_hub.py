"""Models by name: what is downloaded and when, what is found without a network, and what every refusal says."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from displays import Silent
from fake_hub import point_to, serving
from redraft.rl.config.recipe import RecipeError, load_recipe
from redraft.rl.data.files import DataError
from redraft.rl.models.hub import HubError, check_room, find_first, find_model, is_hub_name
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rl.models.shape import find_shape, shape_of
from redraft.rl.run_folder.checkpoint import find_policy
from shapes import small_shape
from tiny import make_policy, write_recipe

NAME = "someone/tiny"
CONFIG = LLaDA2Config.from_dict(small_shape(vocab_size=40))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, and an empty cache and working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "published"
    (folder / "original").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    for name in ("tokenizer_config.json", "generation_config.json", "README.md", "merges.txt", "code.py"):
        (folder / name).write_text(json.dumps(name))
    for name in ("model.safetensors", "pytorch_model.bin", "original/model.safetensors"):
        (folder / name).write_bytes(name.encode().ljust(1000))
    with serving() as hub:
        point_to(hub.url, tmp_path / "cache", monkeypatch)
        hub.publish(NAME, folder)
        yield hub


TEXT = ["README.md", "code.py", "config.json", "generation_config.json", "merges.txt", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("part", "files"),
    [("config", ["config.json"]), ("text", TEXT), ("all", sorted([*TEXT, "model.safetensors"]))],
)
def test_only_what_is_needed_is_downloaded(hub, part, files):
    folder, commit = find_model(NAME, part=part)
    assert hub.fetched() == files
    assert sorted(file.name for file in folder.iterdir()) == files
    assert folder.name == commit == hub.publish(NAME, hub.revisions[NAME]["main"])


def test_a_commit_that_is_in_the_cache_is_found_without_a_request(hub, monkeypatch):
    _, commit = find_model(NAME)
    del hub.requests[:]
    assert find_model(NAME, commit).commit == commit
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_model(NAME).commit == commit
    assert hub.requests == []


def test_what_the_main_branch_means_is_asked_anew(hub, tmp_path):
    old = find_model(NAME).commit
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    new = hub.publish(NAME, other)
    assert find_model(NAME) == (find_model(NAME, new).folder, new)
    assert find_model(NAME, old).commit == old != new


def test_a_folder_goes_first_and_a_path_is_not_asked_of_the_hub(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    local = tmp_path / NAME
    assert is_hub_name(NAME)
    local.mkdir(parents=True)
    assert find_model(NAME) == (local.relative_to(tmp_path), None)
    for path in ("nowhere", "runs/nowhere", "./a/b", "~/a", "/a/b", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=f"^no folder {path}; give a folder with config.json and safetens"):
            find_model(path)
    assert hub.requests == []
    with pytest.raises(ValueError, match=rf"^model.revision v1: {NAME} is a local folder, without revisions; leave"):
        find_model(NAME, "v1")


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        (None, FileNotFoundError, "^no folder x/y here, and {url} shows no model of this name; .*hf auth login"),
        ((401, "RepoNotFound"), FileNotFoundError, "if it is private, log in with: hf auth login .or set HF_TOKEN"),
        (
            (403, "GatedRepo"),
            HubError,
            "^x/y: the hub asks who you are; accept the model's terms at {url}/x/y, and log",
        ),
        (
            (403, ""),
            HubError,
            "^x/y: {url} answers with status 403; your token may have expired: log in with: hf auth l",
        ),
        ((400, ""), HubError, "^x/y: {url} answers with status 400; try again later"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(hub, refusal, error, message):
    if refusal:
        hub.publish("x/y", hub.revisions[NAME]["main"])
        hub.refusals["x/y"] = refusal
    with pytest.raises(error, match=message.format(url=hub.url)):
        find_model("x/y")


def test_a_revision_that_is_not_there_is_named(hub):
    with pytest.raises(FileNotFoundError, match=f"^{NAME}: the hub has no revision v9; {hub.url}/{NAME}/commits/main"):
        find_model(NAME, "v9")


def test_offline_and_a_dead_hub_are_told_apart(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        HubError, match=f"^{NAME}: HF_HUB_OFFLINE is set, and not all of it is in .*cache; unset it, or"
    ):
        find_model(NAME)
    point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    with pytest.raises(HubError, match=f"^no folder {NAME} here, and http://127.0.0.1:9 does not answer .*hf download"):
        find_model(NAME)


def test_a_download_that_the_disk_has_no_room_for_is_refused_before_it_begins(hub, monkeypatch):
    find_model(NAME, part="text")
    del hub.requests[:]
    assert check_room(NAME, None) == 1000
    assert hub.fetched() == []
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(999))
    for refused in (check_room, find_model):
        with pytest.raises(
            HubError, match=f"^{NAME}: 0.0 GiB are to be downloaded, and .* 0.0 GiB free; make room, or"
        ):
            refused(NAME, None)
    assert hub.fetched() == []


def test_a_word_of_the_command_line_may_name_a_revision(hub):
    commit = hub.publish(NAME, hub.revisions[NAME]["main"], "v1")
    assert find_policy(Path(f"{NAME}@v1")).name == find_policy(Path(NAME)).name == commit
    with pytest.raises(ValueError, match=f"^{NAME}: is a model on the hub, without steps to choose from"):
        find_policy(Path(NAME), step=3)
    with pytest.raises(
        FileNotFoundError, match=r"^x: no such run or policy folder; a model on the hub is written owner"
    ):
        find_policy(Path("x"))


def test_plan_needs_the_configuration_alone(hub):
    assert find_shape(NAME, None) == shape_of(CONFIG)
    assert hub.fetched() == ["config.json"]
    for path, message in {
        "a/b": "no folder a/b here, .*; shapes that need no hub: inclusionAI/LLaDA2.0-mini, .* alone is enough",
        "inclusionAI/LLaDA2.1-min": r".*; did you mean 'inclusionAI/LLaDA2.1-mini'\?",
    }.items():
        with pytest.raises(FileNotFoundError, match=rf"^model.path: {message}"):
            find_shape(path, None)


def test_errors_about_a_recipe_name_its_key(hub):
    with pytest.raises(FileNotFoundError, match=r"^model.path: no folder a/b here, and"):
        find_first("a/b", None)
    with pytest.raises(RecipeError, match=r"revision is of a model.path on the hub, and there is no path"):
        load_recipe(["quickstart"], ["model.revision=v1"])


@pytest.mark.heavy
def test_a_run_keeps_the_commit_that_it_began_with(hub, tmp_path, monkeypatch):
    from redraft.rl.verbs import train_recipe

    first, second = (hub.publish("me/policy", make_policy(tmp_path / name, seed)) for seed, name in enumerate("ab"))
    hub.publish("me/policy", tmp_path / "a")
    words = ["model.path=me/policy", "evaluation=null", "trainer.save_steps=1"]
    recipe = write_recipe(tmp_path)
    train_recipe(load_recipe([recipe], [*words, "trainer.total_steps=1"]), Silent(), resume=False)
    run = tmp_path / "run"
    assert yaml.safe_load((run / "config.resolved.yaml").read_text())["model"]["revision"] == first
    assert json.loads((run / "origin.json").read_text()) == {"path": "me/policy", "revision": None, "commit": first}

    hub.publish("me/policy", tmp_path / "b")  # the main branch moves
    longer = load_recipe([recipe], [*words, "trainer.total_steps=2"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train_recipe(longer, Silent(), resume=True).steps == 2
    assert yaml.safe_load((run / "config.resolved.yaml").read_text())["model"]["revision"] == first

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = load_recipe([recipe], [*words, "trainer.total_steps=3", f"model.revision={second}"])
    with pytest.raises(DataError, match=r"the first policy changed since .model.safetensors."):
        train_recipe(asked, Silent(), resume=True)
    folder = load_recipe([recipe], [*words, "trainer.total_steps=3", f"model.path={tmp_path / 'a'}"])
    assert train_recipe(folder, Silent(), resume=True).steps == 3


def test_a_model_that_the_hub_refuses_ends_a_run_before_anything_is_written(hub, tmp_path):
    from redraft.rl.verbs import train_recipe

    config = load_recipe([write_recipe(tmp_path)], ["model.path=a/b"])
    with pytest.raises(FileNotFoundError, match=r"^model.path: no folder a/b here, and"):
        train_recipe(config, Silent(), resume=False)
    assert not (tmp_path / "run" / "config.resolved.yaml").exists()
