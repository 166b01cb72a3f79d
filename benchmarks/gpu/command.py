"""The command line of `check`: its parts one after the other, or, inside of such a process, one of them."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.places import ROOT, golden_folder, what_is_missing
from benchmarks.gpu.runner import Run, gpu_of_machine

TOTAL_S = 570.0  # the machines end a command after ten minutes
CPU_PATIENCE = 5.0  # a CPU is slower, and no window closes there


def main(words: list[str] | None = None) -> int:
    """Run what is asked for; 0 if every check of every part holds."""
    options = _parse(words)
    if problem := what_is_missing():
        print(f"benchmarks/gpu/check: {problem}", file=sys.stderr)
        return 2
    if options.child:
        return _child(options)
    gpu = gpu_of_machine()
    device = ("cuda" if gpu else "cpu") if options.device == "auto" else options.device
    if device == "cuda" and gpu is None:
        print("benchmarks/gpu/check: nvidia-smi finds no GPU; --device cpu --size tiny runs without", file=sys.stderr)
        return 2
    if device == "cpu" and options.size == "full":
        print("benchmarks/gpu/check: the full size needs a GPU; add --size tiny on a CPU", file=sys.stderr)
        return 2
    setting = Setting(device, options.size)
    if golden_folder() is None:
        print("benchmarks/gpu/check: no golden data here, so `golden` will fail; see README.md", file=sys.stderr)
    patience = 1.0 if setting.on_gpu else CPU_PATIENCE
    seconds = patience * TOTAL_S if options.seconds is None else options.seconds
    run = Run(setting, gpu if setting.on_gpu else None, options.out or _default_out(device), seconds)
    parts = [part._replace(limit_s=patience * part.limit_s) for part in PARTS if part.name in options.parts]
    return run.all(parts)


def _parse(words: list[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/check", description=__doc__)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--size", choices=["full", "tiny"], default="full", help="tiny: the same code, for a CPU")
    parser.add_argument("--parts", type=_names(names), default=names, help=f"of {','.join(names)}; default: all")
    parser.add_argument("--seconds", type=float, help=f"for everything; default: {TOTAL_S:g}, more on a CPU")
    parser.add_argument("--out", type=Path, help="folder of results; default: $OUT, or benchmarks/results")
    parser.add_argument("--child", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _names(valid: list[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        asked = text.split(",")
        wrong = [name for name in asked if name not in valid]
        if wrong:
            raise argparse.ArgumentTypeError(f"unknown part {wrong[0]!r}; valid: {', '.join(valid)}")
        return asked

    return read


def _default_out(device: str) -> Path:
    """A CPU's tiny figures are no results of the project."""
    if named := os.environ.get("OUT"):
        return Path(named)
    return ROOT / ("benchmarks/results" if device == "cuda" else "runs/gpu_check")


def _child(options: argparse.Namespace) -> int:
    name, path = options.child
    (part,) = [one for one in PARTS if one.name == name]
    if (golden := golden_folder()) is not None:
        os.environ["REDRAFT_GOLDEN"] = str(golden)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no GPU, although nvidia-smi does: is it a CPU build?")
    part.load()(Setting(options.device, options.size), Findings(Path(path)))
    return 0
