"""``trl_reward``: run a reward function written for TRL's trainers, one of TRL's own included, without a change.

Our contract is TRL's shape, so a function on plain text needs no adapter, only ``fn: pkg.module:function``. The adapter
adds what TRL's trainer does around a call: completions are messages where prompts are, columns have the names that the
function reads, it can log, and a function that first has to be built is built.
"""

import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redraft.rewards.adapters.common import as_mapping, check_arguments, renamed
from redraft.rewards.notes import LOGGERS, Notes
from redraft.rewards.result import RewardError, Verdict, as_verdicts
from redraft.rewards.reward import resolve, reward
from redraft.rewards.scoring.call import BATCH_ARGUMENTS, Signature
from redraft.rewards.text import completion_text
from redraft.rewards.user_files import beside

_Function = Callable[..., Any]


@reward("trl_reward")  # in a worker: math-verify inside TRL's own rewards keeps time only in a process's main thread
def trl_reward(
    prompts: Sequence[object],
    completions: Sequence[object],
    function: str,
    completion_ids: Sequence[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    **data: Any,
) -> object:
    """Score with a TRL reward function.

    Args:
        prompts: Strings or lists of messages.
        completions: Strings or lists of messages.
        function: A name in ``trl.rewards``, ``pkg.module:function`` or ``path/file.py:function``.
        completion_ids: Token ids of each completion.
        arguments: Extra keyword arguments; of the call, or of a function or class that builds the reward
            (``get_soft_overlong_punishment``).
        columns: Data column by argument of the function. ``solution`` is ``ground_truth`` unless the data or the recipe
            has another.
        data: Data columns.

    Returns:
        One verdict per completion, with what the function logs by ``log_extra`` as its detail. It is an awaitable where
        the function is asynchronous.

    Raises:
        RewardError: No such function, or it needs an argument that neither data nor recipe have.
    """
    with beside(function):
        score, extra = _prepare(function, json.dumps(as_mapping(arguments, "arguments"), sort_keys=True))
    if not columns and "solution" not in data and "ground_truth" in data:
        columns = {"solution": "ground_truth"}
    notes = Notes()
    batch: dict[str, Any] = {
        **renamed(data, columns),
        **_as_trainer_passes(prompts, completions, as_messages=_is_trls_own(score)),
        "completion_ids": None if completion_ids is None else [ids and list(ids) for ids in completion_ids],
    }
    signature = Signature.of(score)
    loggers = {name: getattr(notes, name) for name in LOGGERS if signature.takes_any or name in signature.names}
    selected = signature.select(batch, {**loggers, **extra})

    def noted(result: Any) -> list[Verdict]:
        return notes.add_to(as_verdicts(result, len(completions)))

    with beside(function):
        result = score(**selected)
        return _after(result, noted, function) if inspect.isawaitable(result) else noted(result)


@functools.cache
def _prepare(name: str, arguments_json: str) -> tuple[_Function, dict[str, Any]]:
    """Return the reward function and the arguments left for its calls; a function is built once per process."""
    function, arguments = _find(name), json.loads(arguments_json)
    signature = Signature.of(function)
    check_arguments(name, signature, arguments)
    if signature.takes_any or set(signature.names) & set(BATCH_ARGUMENTS):
        return function, arguments
    missing = [argument for argument in signature.required if argument not in arguments]
    if missing:
        raise RewardError(f"{name} builds a reward and needs arguments: {', '.join(missing)}")
    built = function(**arguments)
    if not callable(built):
        raise RewardError(f"{name} takes no completions and built a {type(built).__name__}, not a reward function")
    return built, {}


def _find(name: str) -> _Function:
    if ":" in name:
        return resolve(name)
    try:
        import trl.rewards as own
    except ImportError as error:
        raise RewardError(f"TRL's rewards do not import: {error}") from error
    valid = [public for public in vars(own)["__all__"] if callable(getattr(own, public))]
    if name not in valid:
        raise RewardError(
            f"no {name!r} in trl.rewards; valid: {', '.join(sorted(valid))}, or a function of your own as "
            "'pkg.module:function' or 'path/file.py:function'"
        )
    return getattr(own, name)


def _is_trls_own(score: _Function) -> bool:
    return str(getattr(score, "__module__", "")).startswith("trl.rewards")


def _as_trainer_passes(
    prompts: Sequence[object], completions: Sequence[object], as_messages: bool
) -> dict[str, list[object]]:
    """Return prompts and completions as TRL's trainers pass them: both as messages where the prompts are, else as text.

    TRL's own rewards read only messages, so they always get those.
    """
    if as_messages or (prompts and isinstance(prompts[0], list)):
        return {
            "prompts": [_messages("user", prompt) for prompt in prompts],
            "completions": [_messages("assistant", completion) for completion in completions],
        }
    return {"prompts": list(prompts), "completions": [completion_text(completion) for completion in completions]}


def _messages(role: str, text: object) -> object:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


async def _after(result: Awaitable[Any], noted: Callable[[Any], list[Verdict]], function: str) -> list[Verdict]:
    with beside(function):
        return noted(await result)
