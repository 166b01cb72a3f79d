"""`redraft doctor`: every thing gets a line, nothing ends it, and only what a recipe needs makes it fail."""

import json
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest
from typer.testing import CliRunner

from redraft.rl.cli.main import app
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.shape import find_shape
from redraft.rl.preflight import doctor, installed, needs
from redraft.rl.preflight.doctor import examine
from redraft.rl.preflight.installed import Diagnosis, find_packages
from redraft.rl.preflight.launcher import RayAddressError
from tiny import SHAPE, make_policy, write_recipe

NAMES = ["gpu", "vllm engine", "ray cluster", "sandbox", "disk", "shared memory", "hub"]
OF_RECIPE = ["recipe: machine", "recipe: policy", "recipe: rewards"]


@pytest.fixture
def offline(monkeypatch):
    """No network and no Ray: each test that wants them says so."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def ready(tmp_path, offline):
    """A recipe that can be run here."""
    make_policy(tmp_path / "policy")
    return write_recipe(tmp_path)


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def named(diagnoses, name) -> Diagnosis:
    return next(one for one in diagnoses if one.name == name)


# --- the command ---------------------------------------------------------------------------------------------------


def test_a_machine_and_a_recipe_that_are_well(ready):
    code, shown = command(ready)
    assert code == 0, shown
    lines = shown.splitlines()
    assert lines[0].startswith("ok       python: 3.")
    for name in [*NAMES, *OF_RECIPE, "torch", "ray"]:
        assert sum(line[9:].startswith(f"{name}: ") for line in lines) == 1, name
    assert all(line.startswith(("ok ", "absent ", "warning ", " ")) for line in lines)


def test_a_recipe_that_needs_what_is_not_here(ready):
    code, shown = command(ready, "model.path=/nowhere", "trainer.parallel.ranks=2", "--json")
    made = json.loads(shown)
    assert code == 1
    assert made["schema"] == 1
    assert made["recipe"] == [str(ready), "model.path=/nowhere", "trainer.parallel.ranks=2"]
    assert made["missing"] == ["recipe: machine", "recipe: policy"]
    found = {one["name"]: one for one in made["diagnoses"]}
    assert found["recipe: machine"]["remedy"] == "use cluster.backend=ray, or 1"
    assert found["recipe: policy"]["text"] == "model.path: no folder /nowhere"
    assert all(one.keys() == {"name", "state", "text", "remedy"} for one in made["diagnoses"])
    assert all("\n" not in one["text"] + one["remedy"] for one in made["diagnoses"])
    assert all(one["remedy"] for one in made["diagnoses"] if one["state"] != "ok")


def test_without_a_recipe_nothing_is_missing(offline, monkeypatch):
    def broken(config):
        raise RuntimeError("libcuda.so: wrong\nELF class")

    monkeypatch.setattr(doctor, "_gpu", broken)
    monkeypatch.setattr(installed.metadata, "version", _without("torch"))
    code, shown = command()
    assert code == 0
    assert "warning  gpu: could not be looked at: libcuda.so: wrong ELF class" in shown
    assert "warning  torch: is not installed\n         -> pip install 'torch<2.14,>=2.13'" in shown


# --- packages ------------------------------------------------------------------------------------------------------


def _without(*names: str):
    known = metadata.version

    def version(name: str) -> str:
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return known(name)

    return version


ASKED = [
    "torch<2.14,>=2.13",
    "ray[default]>=2.60",
    'pyseccomp; sys_platform == "linux"',
    'winonly; sys_platform == "win32"',
]
ASKED += ['vllm==0.31.*; extra == "vllm"', 'wandb; extra == "trackers"', 'pytest>=8; extra == "dev"']


@pytest.fixture
def packages(monkeypatch):
    """Fake what is asked for, and give versions by name."""
    versions = {"redraft": "0.1.0", "torch": "2.13.0", "ray": "2.61", "pyseccomp": "1.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installed.metadata, "requires", lambda name: ASKED)
    monkeypatch.setattr(installed.metadata, "version", version)
    return versions


def test_required_and_optional_packages(packages):
    found = list(find_packages(frozenset(), "missing"))
    assert [(one.name, one.state) for one in found] == [
        *((name, "ok") for name in ("redraft", "torch", "ray", "pyseccomp")),
        *((name, "absent") for name in ("vllm", "wandb")),
    ]
    assert named(found, "vllm").remedy == "pip install 'redraft[vllm]'"
    assert named(find_packages(frozenset({"wandb"}), "missing"), "wandb").state == "missing"


def test_a_package_of_another_version_is_a_warning(packages):
    packages["torch"], packages["vllm"] = "2.12.1", "0.30.0"
    found = list(find_packages(frozenset(), "missing"))
    assert named(found, "torch").state == "warning"
    assert named(found, "torch").text == "2.12.1, and <2.14,>=2.13 is asked for"
    assert named(found, "vllm").state == "warning"


def test_a_required_package_that_is_not_there(packages):
    del packages["ray"]
    assert named(find_packages(frozenset(), "missing"), "ray") == Diagnosis(
        "ray", "missing", "is not installed", "pip install 'ray[default]>=2.60'"
    )


def test_a_checkout_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(
        installed.metadata, "requires", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError())
    )
    (one,) = find_packages(frozenset(), "missing")
    assert (one.state, one.remedy) == ("warning", "pip install -e .")


# --- the machine ---------------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_for_the_checkpoints(ready, monkeypatch):
    config = load_recipe([ready])
    # 16 bytes a parameter: weights and moments in state/, weights in hf/; two are kept while a third is written.
    wanted = 3 * 16 * find_shape(None, SHAPE).parameters
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, wanted - 1))
    assert doctor._disk(config).state == "missing"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, wanted + 1))
    assert doctor._disk(config).state == "warning"  # room for them, and for nothing else
    assert doctor._disk(None).state == "warning"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 2**40))
    assert doctor._disk(config).state == "ok"


def test_shared_memory_that_is_small(ready, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 64 * 2**20))
    found = doctor._shared_memory(load_recipe([ready]))
    assert (found.state, found.text.split(" at ")[0]) == ("warning", "64.00 MiB free")
    assert "--shm-size" in found.remedy
    monkeypatch.setattr(doctor, "_SHARED_MEMORY", tmp_path / "nowhere")
    assert doctor._shared_memory(None).state == "absent"


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(403)
        self.end_headers()

    def log_message(self, format, *args):
        pass


def test_a_hub_that_answers_and_one_that_does_not(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert doctor._hub(None).state == "ok"  # a refusal is an answer
    thread.join()
    server.server_close()
    assert doctor._hub(None).state == "warning"
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    assert doctor._hub(None).state == "warning"


def test_a_hub_that_hangs_is_given_up_in_time(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor, "_HUB_S", 0.05)
    hanging = threading.Event()

    def hang(*args, **kwargs):
        hanging.wait(20)
        raise TimeoutError

    monkeypatch.setattr(doctor.urllib.request, "urlopen", hang)
    assert doctor._hub(None).text.endswith("no answer in 0.05 s")
    hanging.set()


def test_a_hub_that_is_switched_off_is_a_warning(offline):
    assert doctor._hub(None).text == "switched off by HF_HUB_OFFLINE"


def test_a_cluster_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

    def refuse():
        raise RayAddressError("RAY_ADDRESS=10.0.0.1:6379: no Ray cluster can be joined there")

    monkeypatch.setattr("redraft.rl.preflight.launcher.check_ray_address", refuse)
    assert doctor._ray(None).state == "warning"
    monkeypatch.setattr("redraft.rl.preflight.launcher.check_ray_address", lambda: None)
    assert doctor._ray(None).text == "RAY_ADDRESS=10.0.0.1:6379 answers"


def test_gpus_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(doctor, "gpus_here", lambda: (2, 80.0 * 2**30))
    assert doctor._gpu(None).state == "warning"
    monkeypatch.setattr(doctor, "gpus_here", lambda: (0, 0.0))
    assert doctor._gpu(None).state == "absent"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "H100")
    assert doctor._gpu(None).text.startswith("2 x H100, ")


def test_vllm_is_needed_only_by_a_recipe_that_names_it(ready, monkeypatch):
    monkeypatch.setattr("redraft.rollout.vllm.engine.find_spec", lambda name: None)
    assert doctor._vllm(load_recipe([ready])).state == "absent"
    missing = doctor._vllm(load_recipe([ready], ["rollout.engine=vllm"]))
    assert missing.state == "missing"
    assert "pip install 'redraft[vllm]'" in missing.remedy


def test_a_sandbox_is_needed_only_by_rewards_that_run_programs(ready, monkeypatch):
    from redraft.rewards.sandbox.program import SandboxError

    def refuse(kind):
        raise SandboxError(f"{kind} is forbidden here")

    monkeypatch.setattr("redraft.rewards.sandbox.choose.open_sandbox", refuse)
    code = "rewards=[{fn: code_tests}]"
    assert doctor._sandbox(load_recipe([ready])).state == "warning"
    missing = doctor._sandbox(load_recipe([ready], [code]))
    assert missing.state == "missing"
    assert missing.remedy == "bubblewrap: bubblewrap is forbidden here; landlock: landlock is forbidden here"
    unsafe = "rewards=[{fn: code_tests, kwargs: {sandbox: unsafe, allow_unsafe: true}}]"
    assert doctor._sandbox(load_recipe([ready], [unsafe])).state == "warning"


def test_a_weaker_sandbox_says_why(monkeypatch):
    from redraft.rewards.sandbox.program import SandboxError

    class Open:
        def close(self):
            pass

    def layer(kind):
        if kind == "bubblewrap":
            raise SandboxError("no bwrap")
        return Open()

    monkeypatch.setattr("redraft.rewards.sandbox.choose.open_sandbox", layer)
    assert doctor._sandbox(None).text == "landlock withstands its self-test; bubblewrap: no bwrap"


def test_whatever_a_check_raises_is_a_diagnosis(ready, monkeypatch):
    def broken(config):
        raise KeyError

    monkeypatch.setattr(needs, "_policy", broken)
    for name in NAMES:
        monkeypatch.setattr(doctor, f"_{name.split()[0] if name != 'shared memory' else 'shared_memory'}", broken)
    found = list(examine(load_recipe([ready])))
    assert {named(found, name).text for name in NAMES} == {"could not be looked at: KeyError"}
    assert named(found, "recipe: policy").text == "KeyError"
