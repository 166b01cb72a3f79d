# pyright: reportMissingImports=false
"""Rollouts through vLLM: stock vLLM with our worker and scheduler, behind the calls of the torch engine.

Nothing of vLLM is imported before an engine is made, so this can be imported where vLLM is not installed.
"""

import json
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from redraft.rollout.config import DecodeConfig, Limits
from redraft.rollout.request import Request, make_requests, name_requests
from redraft.rollout.trajectory import Completion, Prompt
from redraft.rollout.vllm.options import WorkerOptions, check_window
from redraft.rollout.watchdog import Watchdog
from redraft.rollout.weights.carry import Meeting, joined
from redraft.rollout.weights.incoming import Sender, transfer
from redraft.rollout.weights.manifest import Header, Wanted

INSTALL = (
    "rollout.engine: vllm needs vLLM, which is not installed: pip install 'redraft[vllm]'; on a machine without a GPU "
    "its build without kernels is enough: VLLM_VERSION_OVERRIDE=0.31.0 VLLM_TARGET_DEVICE=empty pip install "
    "--no-binary vllm vllm==0.31.0"
)


class VLLMMissingError(ImportError):
    """The recipe asks for vLLM, which is not installed."""


def require_vllm() -> None:
    """Make sure that vLLM is installed, without importing it.

    Raises:
        VLLMMissingError: It is not; the text says how to install it.
    """
    if find_spec("vllm") is None:
        raise VLLMMissingError(INSTALL)


def engine_arguments(options: WorkerOptions, limits: Limits, max_length: int | None = None) -> dict[str, Any]:
    """Collect the arguments with which `vllm.LLM` (or any other entry to vLLM) serves a block diffusion policy.

    Args:
        options: The policy, and how it is decoded.
        limits: What it may use; without `cache_bytes` what all requests can use, as far as the device has it.
        max_length: Most tokens of prompt and completion together; None takes what the policy can address.

    Raises:
        ValueError: The decoding mode cannot be served, or not a single block fits.
    """
    decode = options.decode
    check_window(decode)
    if max_length is None:
        max_length = int(json.loads((Path(options.path) / "config.json").read_text())["max_position_embeddings"])
    length = max_length // decode.block_length * decode.block_length
    if length == 0:
        raise ValueError(f"max_length {max_length} does not hold a single block of {decode.block_length} tokens")
    slots = limits.slots
    # A step of vLLM schedules one token of a request that stays in its block, and a block and a token of one that goes
    # on. Prompts join while there is room.
    step = max(slots * (decode.block_length + 1), min(slots * length, 8192))
    limited = {"logits_bytes": limits.logits_bytes, "max_traces": max(options.max_traces, slots)}
    return {
        "model": options.path,
        "dtype": options.dtype if options.dtype in ("float32", "bfloat16", "float16") else "float32",
        "worker_cls": "redraft.rollout.vllm.worker.DiffusionWorker",
        "scheduler_cls": "redraft.rollout.vllm.scheduler.BlockScheduler",
        "additional_config": options.model_copy(update=limited).model_dump(mode="json"),
        "logits_processors": ["redraft.rollout.vllm.request:RequestCheck"],
        "max_model_len": length,
        "max_num_seqs": slots,
        # The worker runs a whole prompt in one step, so any prompt must fit into one.
        "max_num_batched_tokens": max(length, step),
        "enable_chunked_prefill": False,
        "async_scheduling": False,
        # A page is a diffusion block, because the keys of a token depend on all of its block.
        "block_size": decode.block_length,
        "enable_prefix_caching": True,
        "kv_cache_memory_bytes": limits.cache_bytes,
        "enforce_eager": True,
        "generation_config": "vllm",
        "override_generation_config": {
            "temperature": decode.temperature,
            "top_k": decode.top_k,
            "top_p": decode.top_p,
            "max_new_tokens": decode.max_completion_length,
        },
        "disable_log_stats": True,
    }


class _Running(NamedTuple):
    """A request that vLLM has not completed: its place among the prompts, and vLLM's own id."""

    index: int
    internal_id: str


class VLLMEngine:
    """Complete prompts through vLLM as `rollout.decoding.decoder.Decoder` does, token for token.

    Attributes:
        llm: The `vllm.LLM` inside, for everything else: `generate`, `sleep`, `wake_up`, the weight verbs.
    """

    def __init__(
        self,
        options: WorkerOptions,
        limits: Limits,
        max_length: int | None = None,
        multiprocess: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Start vLLM.

        Args:
            options: The policy, and how it is decoded.
            limits: What it may use.
            max_length: Most tokens of prompt and completion together; None takes what the policy can address.
            multiprocess: Run vLLM's core in a process of its own.
            changes: To the arguments of `vllm.LLM`, which are those of `engine_arguments`.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: The decoding mode cannot be served.
        """
        require_vllm()
        self.options, self.multiprocess = options, multiprocess
        arguments = {**engine_arguments(options, limits, max_length), "skip_tokenizer_init": True, **(changes or {})}
        self.llm = _start(arguments, multiprocess)
        config = self.llm.llm_engine.model_config
        self.max_length, self.vocab_size = config.max_model_len, config.get_vocab_size()
        self._watchdog = Watchdog(limits.step_timeout_s)
        self._ids = count()
        self._streaming = False
        self._failure: BaseException | None = None
        self._updating = False

    def stream(
        self, prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig]
    ) -> Iterator[tuple[int, Completion]]:
        """Complete every prompt; a completion depends neither on which prompts share its batch nor on their order.

        Args:
            prompts: Requests, of any lengths but empty ones.
            config: One for all, or one per prompt.

        Yields:
            The index of a prompt and its completion, as soon as that one is done.

        Raises:
            ValueError: A request does not fit the engine.
            RuntimeError: The engine is asleep or failed before, its last weight update did, or another stream of it has
                not ended.
            StepTimeout: A step does not end.
        """
        requests = self._requests(prompts, config)
        if self._failure is not None:
            raise RuntimeError(f"the vLLM engine failed before and cannot go on: {self._failure}") from self._failure
        if self._streaming:
            raise RuntimeError("another stream of this vLLM engine has not ended; read it to its end or close it")
        if self._updating:
            raise RuntimeError("the last weight update of this vLLM engine did not end; sync complete weights first")
        if self.llm.llm_engine.is_sleeping():
            raise RuntimeError("the vLLM engine is asleep; llm.wake_up() first")
        self._streaming = True
        running: dict[str, _Running] = {}
        try:
            for index, request in enumerate(requests):
                request_id = f"stream-{next(self._ids)}"
                running[request_id] = _Running(index, self._add(request_id, request))
            while running:
                yield from self._step(requests, running)
        finally:  # reached too when the reader leaves before the end
            self._streaming = False
            if running and self._failure is None:
                self.llm.llm_engine.abort_request([one.internal_id for one in running.values()], internal=True)

    def sync(self, weights: Sender) -> int:
        """Take over new weights; nothing that older ones computed is used any more.

        Returns:
            The version that is now in place.

        Raises:
            WeightSyncError: What arrives is not what was sent.
        """
        return transfer(weights, self, "shared_memory" if self.multiprocess else "direct")

    def wanted(self) -> list[Wanted]:
        """See `Receiver.wanted`."""
        return pickle.loads(self.llm.collective_rpc("wanted_weights")[0])

    def join(self, meeting: Meeting | None, place: int = 0) -> None:
        """See `RolloutPolicy.join`."""
        info = {} if meeting is None else {"meeting": meeting, "place": place}
        self.llm.init_weight_transfer_engine({"init_info": info})

    def start_update(self, header: Header) -> None:
        """See `Receiver.start_update`."""
        if self._updating:  # the last update failed: end it, unless the worker has done so
            with suppress(RuntimeError):
                self.llm.finish_weight_update()
        self._updating = True
        self.llm.start_weight_update()
        sent = pickle.dumps(header) if self.multiprocess else header
        self.llm.update_weights({"update_info": {"header": sent}})

    def take(self, number: int, *payloads: Any) -> None:
        """See `Receiver.take`."""
        bucket = joined(payloads)
        sent = pickle.dumps(bucket) if self.multiprocess else bucket
        self.llm.update_weights({"update_info": {"number": number, "bucket": sent}})

    def finish_update(self) -> int:
        """See `Receiver.finish_update`."""
        self.llm.finish_weight_update()
        version = self.llm.collective_rpc("policy_version")[0]
        self.llm.llm_engine.set_weight_version(str(version))
        self.llm.reset_prefix_cache()
        self._updating = False
        return version

    def sleep(self) -> None:
        """Give back pages and weights."""
        self.llm.sleep(level=2)

    def wake(self) -> None:
        """Take memory for weights and pages again."""
        self.llm.wake_up()

    def close(self) -> None:
        """End vLLM and give its memory back."""
        self._watchdog.close()
        self.llm.llm_engine.engine_core.shutdown()

    def _requests(self, prompts: Sequence[Prompt], config: DecodeConfig | Sequence[DecodeConfig]) -> list[Request]:
        requests = make_requests(prompts, config)
        for request in requests:
            self._check(request)
        return requests

    def _check(self, request: Request) -> None:
        check_window(request.config)
        if request.config.block_length != self.options.decode.block_length:
            raise ValueError(
                f"{request} tokens, but this vLLM engine was started for blocks of {self.options.decode.block_length}:"
                " its pages are blocks"
            )
        if not request.prompt.token_ids:
            raise ValueError(f"prompt {request.prompt.id!r} is empty, which vLLM does not take; use the torch engine")
        request.check(self.max_length, self.vocab_size)

    def _add(self, request_id: str, request: Request) -> str:
        from vllm.inputs.engine import tokens_input

        from redraft.rollout.vllm.request import to_params

        prompt = tokens_input(list(request.prompt.token_ids))
        params = to_params(request, self.options.tokens.stops)
        return self.llm.llm_engine.add_request(request_id, prompt, params)

    def _step(self, requests: Sequence[Request], running: dict[str, _Running]) -> Iterator[tuple[int, Completion]]:
        """Take one step of all requests; hand out those that are done."""
        try:
            outputs = self._watchdog.run(
                self.llm.llm_engine.step,
                lambda: f"a vLLM step of {name_requests(requests[one.index] for one in running.values())}",
            )
        except BaseException as error:
            self._failure = error  # its pages may hold anything, so it must not go on
            raise
        done = [(running.pop(output.request_id), output.outputs[0]) for output in outputs if output.finished]
        traces = fetch_traces(self.llm, [one.internal_id for one, _ in done]) if done else {}
        for one, sample in done:
            prompt, completion = requests[one.index].prompt, traces.get(one.internal_id)
            if completion is None or completion.token_ids != tuple(sample.token_ids):
                raise RuntimeError(f"prompt {prompt.id!r}: vLLM ended it otherwise than the block decoder")
            yield one.index, replace(completion, prompt_id=prompt.id)


class VLLMRolloutWorker:
    """A rollout worker (`rollout.worker.RolloutWorker`) that decodes through vLLM."""

    def __init__(self, make_options: Callable[[], WorkerOptions], limits: Limits, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.engine = VLLMEngine(make_options(), limits)
        self.version, self.asleep = -1, False

    def sync(self, weights: Sender) -> int:
        """Take over new weights from a sender in this process; return the version that is now in place."""
        return transfer(weights, self)

    def wanted(self) -> list[Wanted]:
        """See `Receiver.wanted`."""
        return self.engine.wanted()

    def join(self, meeting: Meeting | None, place: int = 0) -> None:
        """See `RolloutPolicy.join`."""
        self.engine.join(meeting, place)

    def start_update(self, header: Header) -> None:
        """See `Receiver.start_update`."""
        self._check_awake("weights were sent to")
        self.version = -1
        self.engine.start_update(header)

    def take(self, number: int, *payloads: Any) -> None:
        """See `Receiver.take`."""
        self.engine.take(number, *payloads)

    def finish_update(self) -> int:
        """See `Receiver.finish_update`."""
        self.version = self.engine.finish_update()
        return self.version

    def stream(self, prompts: Sequence[Prompt], config: DecodeConfig) -> Generator[tuple[int, Completion], None, None]:
        """Complete every prompt; yield its index and its completion, which names the weights that wrote it."""
        self._check_awake("completions were asked of")
        if self.version < 0:
            raise RuntimeError("asked for completions before any weights arrived: sync first")
        yield from self.engine.stream(prompts, config)

    def sleep(self) -> None:
        """Give back pages and weights, see `RolloutWorker.sleep`."""
        if not self.asleep:
            self.engine.sleep()
            self.asleep, self.version = True, -1

    def wake(self) -> None:
        """Take memory for pages and weights again; the next `sync` brings the weights."""
        if self.asleep:
            self.engine.wake()
            self.asleep = False

    def _check_awake(self, what: str) -> None:
        if self.asleep:
            raise RuntimeError(f"{what} a rollout engine that is asleep: wake it first, then sync")

    def close(self) -> None:
        """End vLLM."""
        self.engine.close()


def fetch_traces(llm: Any, request_ids: Sequence[str]) -> dict[str, Completion]:
    """Fetch the completions, with their traces, of finished requests of a `vllm.LLM`; each can be fetched once.

    Args:
        llm: Started with `engine_arguments`.
        request_ids: `RequestOutput.request_id`, or vLLM's internal ids.

    Returns:
        By vLLM's internal id: `<id>-<suffix>`, or `<k>_<id>-<suffix>` for sample k of a request with n > 1.
    """
    (answer,) = llm.collective_rpc("pop_traces", args=(list(request_ids),))
    return pickle.loads(answer)


def _start(arguments: dict[str, Any], multiprocess: bool) -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(multiprocess))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    from vllm import LLM

    from redraft.rollout.vllm.plugin import register

    register()  # in this process the entry points of the package may not be installed
    return LLM(**arguments)
