"""Questions to a model behind an OpenAI-compatible endpoint, many at a time; each ends as a reply or a failure.

The openai package repeats requests, with jittered waits. Kept here: a deadline for each question with its repeats, a
limit on requests under way, and giving up on a server that fails again and again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redraft.rewards.result import RewardError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FAILURES_TO_GIVE_UP = 8
_MAX_REPLY_BYTES = 1 << 20
_MAX_REASON_CHARS = 240
_SHORT = len("none")
_MISCONFIGURED = {401: "refuses the key", 404: "does not know this path or model"}


class Endpoint(BaseModel):
    """A model on a server, and how to ask it.

    Attributes:
        base_url: ``http://host:8000/v1``.
        model: The model's name there.
        api_key: Sent as a bearer token.
        max_tokens: Most tokens of a reply.
        timeout_s: Seconds for one question, repeats and waits included.
        max_retries: Repeats after a connection error or the statuses 408, 409, 429, 5xx.
        concurrency: Requests under way at once.
        extra_body: Further fields of the request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    api_key: str = Field(min_length=1, repr=False)
    max_tokens: int = Field(gt=0)
    timeout_s: float = Field(gt=0, allow_inf_nan=False)
    max_retries: int = Field(ge=0)
    concurrency: int = Field(gt=0)
    extra_body: dict[str, Any]

    def identity(self) -> list[Any]:
        """Return what decides how a question is answered: neither limits of time and number, nor the key."""
        return [self.base_url, self.model, self.max_tokens, self.extra_body]


@dataclass(frozen=True)
class Reply:
    """What the model wrote, and what the server calls itself."""

    text: str
    server: str


@dataclass(frozen=True)
class Failure:
    """Why there is no reply; the question is not to blame."""

    reason: str


async def ask_all(endpoint: Endpoint, questions: Sequence[str]) -> list[Reply | Failure]:
    """Ask every question as a conversation of its own, at temperature 0.

    Args:
        endpoint: Where to ask.
        questions: The user messages.

    Returns:
        One outcome per question, in order.

    Raises:
        RewardError: The openai package is missing, or the server refuses the key or does not know the model.
    """
    if not questions:
        return []
    circuit, limit = _Circuit(endpoint.api_key), asyncio.Semaphore(endpoint.concurrency)
    async with _client(endpoint) as client:  # bound to this event loop; the next batch may run in another one

        async def ask(question: str) -> Reply | Failure:
            async with limit:
                if circuit.is_open:
                    return Failure(f"not asked after {FAILURES_TO_GIVE_UP} failures in a row, the last: {circuit.last}")
                return await _ask(client, endpoint, question, circuit)

        outcomes = await asyncio.gather(*map(ask, questions))
    if circuit.misconfigured:
        raise RewardError(f"{endpoint.base_url}, model {endpoint.model!r}: {circuit.misconfigured}")
    return outcomes


class _Circuit:
    """Counts failures in a row over all requests of a batch; while it is open, no further question is sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._in_a_row = 0
        self.misconfigured = ""
        self.last = ""

    @property
    def is_open(self) -> bool:
        return bool(self.misconfigured) or self._in_a_row >= FAILURES_TO_GIVE_UP

    def failed(self, reason: str) -> Failure:
        """Record that the server is in trouble, and return the failure."""
        self._in_a_row += 1
        failure = self.refused(reason)
        self.last = failure.reason
        return failure

    def refused(self, reason: str) -> Failure:
        """Return the failure of a question that the server refuses; its message is shown without our key."""
        shown = reason.replace(self._secret, "***") if len(self._secret) > _SHORT else reason
        return Failure(shown[:_MAX_REASON_CHARS])

    def answered(self) -> None:
        """Record that the server works."""
        self._in_a_row = 0


def _client(endpoint: Endpoint) -> "AsyncOpenAI":
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise RewardError("a judge needs the openai package: pip install 'redraft[judge]'") from error
    return AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,  # always given: the package would send the environment's OPENAI_API_KEY to any host
        timeout=endpoint.timeout_s,
        max_retries=endpoint.max_retries,
    )


async def _ask(client: "AsyncOpenAI", endpoint: Endpoint, question: str, circuit: _Circuit) -> Reply | Failure:
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    try:
        async with asyncio.timeout(endpoint.timeout_s):
            response = await client.chat.completions.with_raw_response.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": question}],
                temperature=0.0,
                max_tokens=endpoint.max_tokens,
                extra_body=endpoint.extra_body,
            )
    except (TimeoutError, APITimeoutError):
        return circuit.failed(f"no reply within {endpoint.timeout_s:g} s")
    except APIConnectionError as error:
        return circuit.failed(f"no connection: {error.__cause__ or error}")
    except APIStatusError as error:
        return _refused(error.status_code, error.message, circuit)
    circuit.answered()
    return _read(response.content, endpoint.max_tokens)


def _refused(status: int, message: str, circuit: _Circuit) -> Failure:
    """Read a status that says no: the server is in trouble, the recipe is wrong, or this question is refused."""
    reason = f"status {status}: {message}"
    if status in _MISCONFIGURED:
        failure = circuit.failed(f"the server {_MISCONFIGURED[status]} ({reason})")
        circuit.misconfigured = failure.reason
        return failure
    if status == 429 or status >= 500:
        return circuit.failed(reason)
    circuit.answered()
    return circuit.refused(reason)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    """The fields of a chat completion that count."""

    choices: list[_Choice] = Field(min_length=1)
    model: str = ""
    system_fingerprint: str | None = None


def _read(content: bytes, max_tokens: int) -> Reply | Failure:
    if len(content) > _MAX_REPLY_BYTES:
        return Failure(f"a reply of {len(content)} bytes to a request for at most {max_tokens} tokens")
    try:
        body = _Body.model_validate_json(content)
    except ValidationError:
        return Failure(f"no chat completion: {content[:_MAX_REASON_CHARS].decode(errors='replace')!r}")
    choice = body.choices[0]
    if choice.finish_reason == "length":
        return Failure(f"the reply was cut at max_tokens={max_tokens}")
    if not (choice.message.content or "").strip():
        return Failure(f"a reply without text (finish_reason {choice.finish_reason!r})")
    return Reply(choice.message.content or "", " ".join(filter(None, [body.model, body.system_fingerprint])))
