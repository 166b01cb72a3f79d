"""`pack`: pure wheels and the golden data in one folder, for a machine that has torch but no network."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.gpu.places import CARRIED, NOTE, ROOT, commit, golden_folder, sources

PACKAGES = ("pydantic>=2", "jaxtyping", "psutil")  # with what they need: a few wheels, none larger than 3 MiB
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
LARGEST_MIB = 60.0


def main(words: list[str] | None = None) -> int:
    """Build the folder anew; 1 if it cannot be, and the earlier one stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12", help="version of the machine that is carried to; default: 3.12")
    options = parser.parse_args(words)
    golden = golden_folder(carried=False)
    if golden is None:
        return _fail("no golden data: shared/golden/llada2_tiny is neither here nor above; set REDRAFT_GOLDEN")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "carried"
        try:
            install(options.python, folder)
        except subprocess.CalledProcessError as error:
            return _fail(
                f"pip could not fetch {', '.join(PACKAGES)} for Python {options.python} (code {error.returncode})"
            )
        shutil.copytree(golden / "llada2_tiny", folder / "golden" / "llada2_tiny")
        found = {one.metadata["Name"]: one.version for one in distributions(path=[str(folder)])}
        note = {"python": options.python, "commit": commit(), "sources": sources(), "packages": found}
        (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n")
        mib = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
        if mib > LARGEST_MIB:
            return _fail(f"{mib:.1f} MiB, but at most {LARGEST_MIB:g} MiB can be carried")
        shutil.rmtree(CARRIED, ignore_errors=True)
        shutil.move(folder, CARRIED)
    print(f"{CARRIED.relative_to(ROOT)}: {mib:.1f} MiB for Python {options.python}, commit {note['commit']}")
    print(", ".join(f"{name} {version}" for name, version in sorted(found.items())))
    return 0


def _fail(problem: str) -> int:
    print(f"benchmarks/gpu/pack: {problem}", file=sys.stderr)
    return 1


def install(python: str, target: Path) -> None:
    """Unpack wheels for another Python than the one that runs; nothing is built and nothing of theirs is run."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    words = ["--target", str(target), "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *words, *platforms, *PACKAGES], check=True)
