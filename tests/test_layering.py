"""Imports point one way, each heavy package has one owner, and names in strings lead somewhere."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import ROOT

# From the highest floor to the ground: a file imports rooms on lower floors and its own room, never beside or above.
FLOORS = {
    "redraft": [["__main__"], ["api"], ["words"]],  # all but `words` stand above the packages, see LAYERS
    "rl": [
        *(
            ["cli"],
            ["verbs"],
            ["run", "process"],
            ["preflight"],
            ["plan"],
            ["loop"],
            ["progress"],
            ["stages"],
            ["cluster"],
        ),
        *(["learner"], ["weight_sync"], ["experience", "likelihood"], ["monitor", "views", "objective"]),
        *(["run_folder"], ["data"]),
        *(["models"], ["parallel"], ["config", "protocols"], ["seeding", "files"], ["atomic"]),
    ],
    "rollout": [
        *(["vllm"], ["worker"], ["decoding"], ["engine"], ["weights", "request", "chat"]),
        *(["special_ids", "config", "sampling", "watchdog", "precision"], ["trajectory", "blocks"]),
    ],
    "rewards": [
        *(["worker", "adapters"], ["scoring"], ["library"], ["sandbox", "processes"], ["term"], ["reward"]),
        *(["text", "chats", "user_files", "notes"], ["result"]),
    ],
}
LAYERS = {"redraft": {"rl", "rollout", "rewards"}, "rl": {"rollout", "rewards"}, "rollout": set(), "rewards": set()}
# For the folder of the installed package, and for its version.
READ_THE_TOP = {"rl/config/places.py", "rl/cli/main.py"}
OWNERS = {
    "ray": {f"rl/cluster/{part}.py" for part in ("actor_pool", "gang", "ray_parts", "weight_delivery")},
    "vllm": {f"rollout/vllm/{part}.py" for part in ("engine", "plugin", "request", "running", "scheduler", "worker")},
    "accelerate": {"rl/monitor/trackers.py", "rl/stages/sft.py"},
    "trl": {"rewards/adapters/trl.py", "rl/stages/sft.py"},
    "huggingface_hub": {"rl/models/hub.py", "rl/stages/model_card.py"},
    "wandb": {"rl/monitor/trackers.py"},
    "tensorboard": {"rl/monitor/trackers.py"},
    "trackio": {"rl/monitor/trackers.py"},
    "math_verify": {"rewards/library/answers/algebra.py"},
    "langdetect": {"rewards/library/instructions/language.py"},
    "nltk": {"rewards/library/instructions/language.py"},
    "openai": {"rewards/library/judge/endpoint.py"},
}
# The families of networks are known to the registry, to whatever is inside `models/`, and to nothing else.
FAMILY_HOLDERS = {"rl/models/registry.py"}


def sources() -> list[Path]:
    inside = [path for layer in LAYERS.keys() - {"redraft"} for path in (ROOT / layer).rglob("*.py")]
    return sorted([*(ROOT / "redraft").glob("*.py"), *inside])  # redraft/ holds links to the other folders


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path) -> set[str]:
    """Modules that a file imports, with `from x import y` as both x and x.y."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def key(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(name: str) -> str:
    """The room of a file or of a module, without its layer: `rl/views/elbo.py` and `redraft.rl.views.elbo`."""
    return name.removeprefix("redraft.").removesuffix(".py").replace("/", ".").split(".")[1]


def test_every_file_has_a_floor():
    for layer, floors in FLOORS.items():
        known = {name for floor in floors for name in floor} | {"__init__"}
        assert {room(key(path)) for path in sources() if path.is_relative_to(ROOT / layer)} == known


def test_imports_point_down():
    for path in sources():
        layer = key(path).split("/")[0]
        if room(key(path)) == "__init__":
            continue  # what a package offers is made of all of its floors
        height = {name: number for number, floor in enumerate(FLOORS[layer]) for name in floor}
        here = room(key(path))
        for name in imported(path):
            if name.startswith(f"redraft.{layer}.") and (there := room(name)) != here:
                assert height[there] > height[here], f"{key(path)} imports {name}"


def test_layers_import_only_the_layers_below():
    for path in sources():
        layer = key(path).split("/")[0]
        used = {name.split(".")[1] for name in imported(path) if name.startswith("redraft.")} & LAYERS.keys() - {layer}
        assert used <= LAYERS[layer], f"{key(path)} imports {used - LAYERS[layer]}"


def test_the_packages_import_nothing_of_the_top_but_the_words_of_errors():
    for path in sources():
        if key(path).startswith("redraft/"):
            continue
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("redraft.")}
        allowed = {"rl", "rollout", "rewards", "words", "__version__"}
        assert parts <= allowed, f"{key(path)} imports {parts - allowed}"
        assert "redraft" not in imported(path) or key(path) in READ_THE_TOP, f"{key(path)} imports the top package"


def test_nothing_of_ours_is_imported_under_another_name():
    ours = {"rl", "rollout", "rewards", "benchmarks"}
    for path in sources():
        assert not {name.split(".")[0] for name in imported(path)} & ours, key(path)


def test_heavy_packages_are_imported_by_their_owners_only():
    for path in sources():
        used = {name.split(".")[0] for name in imported(path)} & OWNERS.keys()
        strangers = {package for package in used if key(path) not in OWNERS[package]}
        assert not strangers, f"{key(path)} imports {strangers}"


def test_the_words_of_errors_are_found_in_one_place():
    for path in sources():
        calls = {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
        is_place = key(path) == "redraft/words.py"
        assert is_place or "difflib" not in imported(path), f"{key(path)}: use redraft.words.did_you_mean"
        if not is_place and key(path) != "rl/config/errors.py":
            assert "errors" not in calls, f"{key(path)}: use redraft.words.problem_lines"


def test_the_words_of_errors_stand_below_everything():
    names = {name.split(".")[0] for name in imported(ROOT / "redraft" / "words.py")} - sys.stdlib_module_names
    assert names == {"pydantic", "pydantic_core"}  # for their types only
    code = "import sys, redraft.words; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_public_name_means_one_thing():
    homes: dict[str, list[str]] = {}
    for path in sources():
        if room(key(path)) in {"cli", "api"}:
            continue  # functions there are named like the verbs that a user types
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(key(path))
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert not twice


def test_rewards_import_no_torch():
    for path in (ROOT / "rewards").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "numpy"}, key(path)


def test_only_the_registry_knows_the_families_of_networks():
    for path in (ROOT / "rl").rglob("*.py"):
        if "models" not in path.parts and key(path) not in FAMILY_HOLDERS:
            assert not any(name.startswith("redraft.rl.models.llada2") for name in imported(path)), key(path)


def test_the_loop_is_short_and_knows_no_ray():
    loop = ROOT / "rl" / "loop.py"
    assert len(loop.read_text().splitlines()) < 180
    assert not imported(loop) & {"ray", "torch", "redraft.rl.cluster", "redraft.rl.learner"}


def test_no_file_is_longer_than_400_lines():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 400, key(path)


NAMED = re.compile(r"(redraft(?:\.\w+)+)[:.](\w+)")


def names_in_strings() -> list[tuple[str, str]]:
    """Every string of the tree that is a module of ours with a name in it: `redraft.x.y:name`, `redraft.x.y.Name`."""
    folders = ("rl", "rollout", "rewards", "redraft", "benchmarks", "tests", "examples")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found = []
    for path in (ROOT / name for name in tracked if name.endswith(".py") and (ROOT / name).is_file()):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAMED.fullmatch(node.value):
                found.append((key(path), node.value))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found += [("pyproject.toml", target) for target in project["scripts"].values()]
    return found + [
        ("pyproject.toml", target) for points in project["entry-points"].values() for target in points.values()
    ]


def leads_somewhere(text: str) -> bool:
    """Looked up in the source, so that nothing has to be imported, vLLM least of all."""
    place, name = re.split("[:.](?=[^:.]+$)", text)
    file, folder = ROOT / f"{place.replace('.', '/')}.py", ROOT / place.replace(".", "/")
    if ":" not in text and ((folder / name).is_dir() or (folder / f"{name}.py").is_file()):
        return True
    module = file if file.is_file() else folder / "__init__.py"
    return module.is_file() and name in defined(module)


def defined(path: Path) -> set[str]:
    """Names that a module has at its top level."""
    names: set[str] = set()
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names


def test_every_name_in_a_string_leads_somewhere():
    found = names_in_strings()
    assert len(found) > 20
    # The misspelled ones are test data.
    lost = {(place, text) for place, text in found if not leads_somewhere(text)}
    assert {text for _, text in lost} <= {"redraft.rewards.library.format:boxed_fromat"}, lost


def test_ours_are_one_copy_under_one_name():
    code = (
        "import sys, redraft.rl.run, redraft.rl.cli.main, redraft.rewards, redraft.rollout.worker\n"
        "files = [getattr(m, '__file__', None) for m in list(sys.modules.values())]\n"
        "ours = [__import__('os').path.realpath(f) for f in files if f and f.startswith(sys.argv[1])]\n"
        "assert ours and len(ours) == len(set(ours)), 'one file, two modules'\n"
        "assert not {'rl', 'rollout', 'rewards'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True, cwd="/")


@pytest.mark.parametrize("name", ["rl", "rollout", "rewards"])
def test_the_folders_are_linked(name):
    assert (ROOT / "redraft" / name).resolve() == ROOT / name
