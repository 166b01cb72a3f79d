"""The golden tiny LLaDA2 folder: found next to the checkout or above it."""

import json
from pathlib import Path
from typing import Any

import pytest

MASK, EOS, BLOCK_LENGTH = 511, 510, 32


def golden_folder() -> Path:
    """`shared/golden/llada2_tiny` in the nearest parent folder that has it; skips the test where none has."""
    for parent in Path(__file__).resolve().parents:
        if (folder := parent / "shared" / "golden" / "llada2_tiny").is_dir():
            return folder
    pytest.skip("shared/golden/llada2_tiny is not here")


def golden_cases(kind: str) -> list[dict[str, Any]]:
    """The cases of one kind: "logits" or "decode"."""
    return json.loads((golden_folder() / "cases.json").read_text())[kind]
