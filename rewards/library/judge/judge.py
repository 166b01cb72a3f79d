"""``judge``: another model grades the completion, behind any OpenAI-compatible endpoint (vLLM's server, a hosted API).

Where a judge cannot be asked, or does not answer in the form asked for, the score is None: the sample is masked, with
status infra_error and the reason. The same question is asked once per process. `judge.rubric` holds what a judge reads.
"""

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from redraft.rewards.library.judge.endpoint import Endpoint, Failure, Reply, ask_all
from redraft.rewards.library.judge.rubric import Grading
from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import reward
from redraft.words import problem_lines

CACHE_SIZE = 20_000
_MAX_DETAIL_CHARS = 300
_Model = TypeVar("_Model", bound=BaseModel)


@reward("judge", isolation="inline")
async def judge(
    prompts: Sequence[object],
    completions: Sequence[object],
    base_url: str,
    model: str,
    ground_truth: Sequence[object] | None = None,
    *,
    api_key_env: str | None = None,
    rubric: str | Sequence[str | None] | None = None,
    scale: int = 1,
    max_candidate_chars: int = 8_000,
    max_tokens: int = 512,
    timeout_s: float = 60.0,
    max_retries: int = 3,
    concurrency: int = 16,
    extra_body: Mapping[str, Any] | None = None,
) -> list[Verdict]:
    """Have a model grade each completion.

    Args:
        prompts: The tasks: strings or lists of messages.
        completions: Strings or lists of messages; the judge sees the text after the reasoning.
        base_url: The endpoint, ``http://host:8000/v1``.
        model: The name of the judge there.
        ground_truth: Right answers, None where there is none; the judge sees them as the reference.
        api_key_env: Environment variable that holds the key; None for a server without keys.
        rubric: What to grade, one text for all or the data's column; by default whether the final answer means the same
            as the reference, and without a reference whether the candidate does the task.
        scale: The judge gives a whole number from 0 to this; the score is that divided by it.
        max_candidate_chars: Of a longer candidate the judge sees the head and the tail.
        max_tokens: Most tokens of the judge's reply; one that is cut there does not count.
        timeout_s: Seconds for one completion, repeats and waits included.
        max_retries: Repeats after a connection error or the statuses 408, 409, 429, 5xx, with growing, jittered waits.
        concurrency: Requests of this process under way at once.
        extra_body: Further fields of the request, such as ``{chat_template_kwargs: {enable_thinking: false}}``.

    Returns:
        Per completion: ok, or wrong for 0; no_answer 0.0, without a request, for one that is empty or only an opening;
        infra_error None where the judge failed.

    Raises:
        RewardError: A setting is invalid, the variable holds no key, the openai package is missing, or the server
            refuses the key or does not know the model.
    """
    grading = _checked(Grading, scale=scale, max_candidate_chars=max_candidate_chars)
    endpoint = _checked(
        Endpoint,
        base_url=base_url,
        model=model,
        api_key=_read_key(api_key_env),
        max_tokens=max_tokens,
        timeout_s=timeout_s,
        max_retries=max_retries,
        concurrency=concurrency,
        extra_body=extra_body or {},
    )
    references = [None] * len(completions) if ground_truth is None else ground_truth
    rubrics = [rubric] * len(completions) if rubric is None or isinstance(rubric, str) else rubric
    asked = [grading.question(*row) for row in zip(prompts, completions, references, rubrics, strict=True)]
    verdicts = await _judge_all(grading, endpoint, list(dict.fromkeys(one for one in asked if isinstance(one, str))))
    return [verdicts[one] if isinstance(one, str) else one for one in asked]


class Cache:
    """The latest verdicts of this process, by a hash of judge and question; thread-safe.

    Args:
        size: Most verdicts kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._verdicts: OrderedDict[str, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Verdict | None:
        """Return the verdict under a key, which then is the last to be dropped; None where there is none."""
        with self._lock:
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
            return self._verdicts.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, dropping the one not used for longest."""
        with self._lock:
            self._verdicts[key] = verdict
            if len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)


_CACHE = Cache(CACHE_SIZE)


async def _judge_all(grading: Grading, endpoint: Endpoint, questions: Sequence[str]) -> dict[str, Verdict]:
    """Judge distinct questions, from the cache where it has them; failures are not kept."""
    judge_sha256 = _sha256([*endpoint.identity(), grading.sha256()])
    keys = {question: _sha256([judge_sha256, question]) for question in questions}
    known = {question: verdict for question in questions if (verdict := _CACHE.get(keys[question])) is not None}
    new = [question for question in questions if question not in known]
    for question, outcome in zip(new, await ask_all(endpoint, new), strict=True):
        known[question] = _verdict(grading, outcome, judge_sha256)
        if known[question].score is not None:
            _CACHE.put(keys[question], known[question])
    return known


def _verdict(grading: Grading, outcome: Reply | Failure, judge_sha256: str) -> Verdict:
    if isinstance(outcome, Failure):
        return Verdict(None, Status.INFRA_ERROR, outcome.reason)
    said = outcome.text.strip()[-_MAX_DETAIL_CHARS:]
    score = grading.score(outcome.text)
    if score is None:
        return Verdict(None, Status.INFRA_ERROR, f"no score from 0 to {grading.scale} in the last line: {said}")
    status = Status.OK if score > 0 else Status.WRONG
    return Verdict(score, status, f"{said} [judge {outcome.server}, {judge_sha256[:12]}]")


def _checked(kind: type[_Model], **values: Any) -> _Model:
    try:
        return kind(**values)
    except ValidationError as error:
        raise RewardError("; ".join(problem_lines(error))) from error


def _read_key(variable: str | None) -> str:
    """Read the key in an environment variable; a placeholder for servers that want none."""
    if variable is None:
        return "none"
    key = os.environ.get(variable, "").strip()  # a key read from a file often ends with a newline
    if not key:
        raise RewardError(f"api_key_env: there is no environment variable {variable!r}, or it is empty")
    return key


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
