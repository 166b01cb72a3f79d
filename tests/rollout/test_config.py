"""Decode settings: presets, limits, messages."""

import pytest
from pydantic import ValidationError

from redraft.rollout.config import PRESETS, DecodeConfig


@pytest.mark.parametrize(("name", "threshold", "editing"), [("q", 0.7, 0.5), ("s", 0.5, 0.0), ("llada2.0", 0.95, 1.0)])
def test_presets_are_the_published_modes(name, threshold, editing):
    config = DecodeConfig.preset(name)
    assert (config.threshold, config.editing_threshold) == (threshold, editing)
    assert (config.block_length, config.max_post_steps, config.temperature) == (32, 16, 0.0)


def test_a_preset_takes_overrides():
    config = DecodeConfig.preset("s", {"threshold": 0.6, "temperature": 1.0})
    assert (config.threshold, config.editing_threshold, config.temperature) == (0.6, 0.0, 1.0)
    with pytest.raises(ValidationError, match="treshold"):
        DecodeConfig.preset("s", {"treshold": 0.6})


def test_an_unknown_preset_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown decoding mode 'fast'; valid: q, s, llada2\.0"):
        DecodeConfig.preset("fast")


def test_presets_and_configs_do_not_change():
    with pytest.raises(TypeError):
        PRESETS["q"]["threshold"] = 0.1  # type: ignore[index]
    with pytest.raises(ValidationError, match="frozen"):
        DecodeConfig().threshold = 0.1  # type: ignore[misc]


def test_an_editing_threshold_outside_the_unit_interval_is_explained():
    with pytest.raises(
        ValidationError, match=r"editing_threshold must be in \[0, 1\], got 1.3; use 1.0 to switch editing"
    ):
        DecodeConfig(editing_threshold=1.3)


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": 1.01},
        {"threshold": float("nan")},
        {"editing_threshold": -0.1},
        {"editing_threshold": float("nan")},
        {"block_length": 0},
        {"max_post_steps": -1},
        {"max_completion_length": 0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": 1e-6},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"edit_sampling": "draw"},
        {"unmask_confidence": "best"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        DecodeConfig.model_validate(bad)


def test_without_editing_no_mask_free_forward_is_allowed():
    assert DecodeConfig(editing_threshold=1.0).post_steps == 0
    assert DecodeConfig(editing_threshold=0.99, max_post_steps=5).post_steps == 5
