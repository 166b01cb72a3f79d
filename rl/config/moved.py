"""Say where the keys of a flat `algorithm` section are now, of an older recipe or by TRL's names."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from redraft.rl.config.choices import Choices
from redraft.rl.config.scalars import alternatives, kinds_of, required_of, section_types, settle
from redraft.rl.config.yaml_core import YamlError
from redraft.words import guess_and_valid

MOVED: Final[Mapping[str, tuple[str, ...]]] = {
    "num_mc": ("estimator.num_mc",),
    "step_sampling": ("estimator.step_sampling",),
    "shrink": ("estimator.cut.steps",),
    "merge": ("estimator.cut.segments",),
    "lookahead": ("estimator.lookahead",),
    "noise": ("estimator.noise",),
    "stratify": ("estimator.noise.stratify",),
    "count_exponent": ("estimator.noise.count_exponent",),
    "tiles": ("estimator.noise.tiles",),
    "masks_per_level": ("estimator.noise.masks_per_level",),
    "prompt_mask_ratio": ("estimator.prompt_mask_ratio",),
    "t2t_views": ("estimator.edits",),
    "num_t2t": ("estimator.edits.num_views",),
    "t2t_weight": ("loss.t2t_weight",),
    "ratio": ("loss.ratio",),
    "importance_sampling_level": ("loss.ratio",),
    "gamma": ("loss.ratio.gamma",),
    "loss_type": ("loss",),
    "loss_normaliser": ("loss.ratio.normaliser",),
    "epsilon": ("loss.epsilon",),
    "epsilon_high": ("loss.epsilon_high",),
    "t2t_epsilon": ("loss.t2t_epsilon",),
    "t2t_epsilon_high": ("loss.t2t_epsilon_high",),
    "psi": ("loss.psi", "advantage.psi"),
    "dpo_beta": ("loss.beta",),
    "bound_beta": ("loss.bound_beta",),
    "bound_mix": ("loss.bound_mix",),
    "scale_rewards": ("advantage",),
    "multi_objective_aggregation": ("advantage.multi_objective_aggregation",),
    "beta": ("regulariser.kl.beta",),
    "kl": ("regulariser.kl.kind",),
    "anchor": ("regulariser.anchor.weight",),
    "anchor_mc": ("regulariser.anchor.num_mc",),
    "rollout_correction": ("correction.rollout",),
    "vllm_importance_sampling_correction": ("correction.rollout",),
    "vllm_importance_sampling_mode": ("correction.rollout",),
    "correction_cap": ("correction.rollout.cap",),
    "vllm_importance_sampling_cap": ("correction.rollout.cap",),
    "vllm_importance_sampling_clip_max": ("correction.rollout.cap",),
    "path_check": ("correction.path_check",),
    "route_replay": ("correction.route_replay",),
    "num_iterations": ("update.num_iterations",),
    "num_minibatches": ("update.num_minibatches",),
    "redraw": ("update.redraw",),
    "target_drift": ("update.target_drift",),
}
"""Flat key: its places in the sections. `preset`, `estimator` and `advantage` stay, as a choice of one word."""

_OFF: Final[Mapping[tuple[str, float], str]] = {
    ("shrink", 1): "estimator.cut",
    ("merge", 0): "estimator.cut",
    ("beta", 0): "regulariser.kl",
    ("anchor", 0): "regulariser.anchor",
}
"""Flat keys at the value that switched them off, and the section whose kind `none` says so now."""
_NORMALISERS: Final = {"grpo": "sequence", "bnpo": "batch", "dapo": "batch", "dr_grpo": "constant"}
_OF_TRL: Final[Mapping[str, Mapping[Any, Any]]] = {
    "loss_type": {
        word: {"kind": "clip", "ratio": {"kind": "token", "normaliser": normaliser}}
        for word, normaliser in _NORMALISERS.items()
    },
    "scale_rewards": {True: "grpo", "group": "grpo", False: "dr_grpo", "none": "dr_grpo"},
    "vllm_importance_sampling_correction": {True: "token", False: "none"},
    "vllm_importance_sampling_mode": {"token_truncate": "token", "sequence_truncate": "sequence"},
}
"""Values that only TRL has, and what they are here. Its `loss_type` chooses what a clipped loss is divided by."""


def where_now(key: str, value: Any) -> str | None:
    """Say how a flat key is written today, or return None if it never was one.

    Args:
        key: A key of the `algorithm` section.
        value: What the recipe gives it. A value that the new place would refuse is not part of the advice.
    """
    if key == "overlong_buffer":
        return _length_reward(value)
    if key not in MOVED:
        return None
    if _is_number(value) and (key, value) in _OFF:
        return f"has moved: write {_written(_OFF[key, value], 'none')}"
    if isinstance(value, str | bool):
        value = _OF_TRL.get(key, {}).get(value, value)
    ways = [_written(place, value) for place in MOVED[key] if _takes(place, value)]
    if value is not None and ways:
        return f"has moved: write {'; or '.join(ways)}"
    places = " or ".join(f"algorithm.{place}{_needs(place)}" for place in MOVED[key])
    if value is None:
        return f"has moved to {places}; null says nothing there: leave it out"
    words = [word for place in MOVED[key] for word in _words(place)]
    return f"has moved to {places}, which does not take {_quoted(value)}{_guess(value, words)}"


def _kinds_needed(place: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the sections on the way to a key that have it for some kinds only, with these kinds."""
    parts = place.split(".")
    for depth, (sections, having) in enumerate(_way(place)):
        if len(having) < len(sections):
            yield f"{'.'.join(parts[:depth])}.kind", [kind for section in having for kind in kinds_of(section)]


def _way(place: str) -> Iterator[tuple[Sequence[type[BaseModel]], Sequence[type[BaseModel]]]]:
    """Yield, for each name of a place, the classes that may stand before it, and those of them that have it."""
    sections: Sequence[type[BaseModel]] = [Choices]
    for part in place.split("."):
        having = [section for section in sections if part in section.model_fields]
        yield sections, having
        inner = [kind for section in having for kind in section_types(section.model_fields[part].annotation)]
        sections = list(dict.fromkeys(inner))


def _written(place: str, value: Any) -> str:
    """Show a key with its value as a file and as a command line have it."""
    section, _, key = place.rpartition(".")
    if section == "estimator.cut":  # a written number of steps or segments means that they are cut
        return _written(section, {"kind": "shrink" if key == "steps" else "merge", key: value})
    first, *inner = place.split(".")
    text = _as_yaml(value)
    in_file = "".join(f"{{{part}: " for part in inner) + text + "}" * len(inner)
    word = shlex.quote(f"algorithm.{place}={text}")
    return f"{first}: {in_file}, or {word} on the command line{_needs(place)}"


def _takes(place: str, value: Any) -> bool:
    """Tell whether the section that holds the last key of a place accepts a value there, for at least one kind."""
    *_, (_, having) = _way(place)
    key = place.rpartition(".")[2]
    for section in having:
        try:
            section.model_validate(settle({**required_of([section]), key: value}, section))
        except (ValidationError, YamlError):
            continue
        return True
    return False


def _words(place: str) -> list[str]:
    """Return the words of which a place takes one; none where it takes numbers."""
    *_, (_, having) = _way(place)
    types = [
        one for section in having for one in alternatives(section.model_fields[place.rpartition(".")[2]].annotation)
    ]
    kinds = [kind for one in types for section in section_types(one) for kind in kinds_of(section)]
    return kinds or [word for one in types if get_origin(one) is Literal for word in get_args(one)]


def _guess(value: Any, words: Sequence[str]) -> str:
    return f"; {guess_and_valid(value, words, cutoff=0.7)}" if words else ""


def _needs(place: str) -> str:
    needs = [f"algorithm.{where} {', '.join(kinds)}" for where, kinds in _kinds_needed(place)]
    needs += [f"algorithm.{where} above 0" for where in _weights_needed(place)]
    return f" (for {' and '.join(needs)})" if needs else ""


def _weights_needed(place: str) -> Iterator[str]:
    """Yield the keys without a default that stand beside a key: the weights of the regularisers."""
    *_, (_, having) = _way(place)
    section, _, key = place.rpartition(".")
    yield from (f"{section}.{name}" for name in required_of(having) if name != key)


def _length_reward(value: Any) -> str:
    if value is None or (_is_number(value) and value == 0):
        return f"is gone, and {_as_yaml(value)} was none: leave it out"
    is_length = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return (
        f"is a reward now: add to rewards {{fn: soft_overlong, kwargs: {{buffer: {value if is_length else 'B'},"
        " max_completion_length: N}}, N being rollout.decode.max_completion_length"
        f"{'' if is_length else f', and B a number of tokens, which {_quoted(value)} is not'}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) else _as_yaml(value)


def _as_yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_as_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
