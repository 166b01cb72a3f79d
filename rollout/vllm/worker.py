# pyright: reportMissingImports=false
"""Our worker inside stock vLLM: vLLM schedules requests and pages, the block decoder runs them. One device, CPU or GPU.

vLLM imports this by name (`worker_cls`). The policy is made by a function named in `additional_config`, so no model is
known here; it runs on a torch engine whose pages are vLLM's pages, number by number.
"""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.tasks import SupportedTask
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, LogprobsLists, ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from redraft.rollout.decoding.slots import Slots
from redraft.rollout.vllm.options import WorkerOptions
from redraft.rollout.vllm.policy import Asleep, ResidentPolicy
from redraft.rollout.vllm.running import Emission, RunningRequests


class DiffusionWorker(WorkerBase):
    """Run a block diffusion policy for vLLM: one denoising step of all scheduled requests per `execute_model`."""

    resident: ResidentPolicy
    running: RunningRequests

    def init_device(self) -> None:
        """Read the options; the device is one of them."""
        self.options = WorkerOptions.read(self.vllm_config.additional_config)
        _check_setup(self.vllm_config, self.options)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the policy; its loader decides what the weights are."""
        del load_dummy_weights
        self.resident = ResidentPolicy(self.options)
        self.device = self.resident.device

    def get_model(self) -> nn.Module:
        """Return the policy's network."""
        assert self.resident.policy is not None
        return self.resident.policy.model

    def get_supported_tasks(self) -> tuple[SupportedTask, ...]:
        """Name the only task: to generate."""
        return ("generate",)

    # --- pages -----------------------------------------------------------------------------------------------------

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        """Describe a page in every layer, so that vLLM counts the memory that is really used."""
        shape = self.resident.cache_shape
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=shape.heads,
            head_size=shape.head_dim,
            dtype=self.resident.dtype,
        )
        return {f"layer.{layer}": spec for layer in range(shape.layers)}

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """Name the layout of the torch engine: layer, page, token, head."""
        return ["LBNHC"]

    def determine_available_memory(self) -> int:
        """Count bytes for pages: what was asked for, else what all requests can use and the device can hold."""
        if self.cache_config.kv_cache_memory_bytes:
            return self.cache_config.kv_cache_memory_bytes
        per_row = self.model_config.max_model_len // self.cache_config.block_size
        return self.resident.memory_for(per_row * self.scheduler_config.max_num_seqs + 1)

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        """Take memory for the pages; vLLM never hands out page 0, which takes what is never read."""
        self._num_pages, length = kv_cache_config.num_blocks, self.model_config.max_model_len
        slots = Slots(
            self.resident.open(self._num_pages - 1),
            self.resident.device,
            self.options.tokens,
            block_length=self.cache_config.block_size,
            num_slots=self.scheduler_config.max_num_seqs,
            length=length,
        )
        self.running = RunningRequests(slots, self.options, self._num_pages, length)
        self.running.version = self.resident.version

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Report no time: there is nothing to compile."""
        return CompilationTimes(language_model=0.0, encoder=0.0)

    # --- requests --------------------------------------------------------------------------------------------------

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Take one denoising step of all scheduled requests; a request emits tokens when a block of it is final."""
        if self.resident.device.type == "cuda":
            # The current device belongs to a thread, and this may be a watchdog's.
            torch.cuda.set_device(self.resident.device)
        emitted = self.running.step(scheduler_output)
        ids = list(scheduler_output.num_scheduled_tokens)
        if not ids:
            return EMPTY_MODEL_RUNNER_OUTPUT
        silent = Emission([], [])
        per_request = [emitted.get(request_id, silent) for request_id in ids]
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=[emission.tokens for emission in per_request],
            logprobs=_log_probs(per_request),
        )

    def take_draft_token_ids(self) -> None:
        """Return no draft tokens: there is no speculative decoding."""

    def pop_traces(self, request_ids: Sequence[str]) -> bytes:
        """Hand out completions of finished requests and forget them, see `RunningRequests.pop_traces`.

        They are pickled, because vLLM sends only plain types from process to process.
        """
        return pickle.dumps(self.running.pop_traces(request_ids))

    def reset_mm_cache(self) -> None:
        """Do nothing: there is no such cache."""

    def reset_encoder_cache(self) -> None:
        """Do nothing: there is no such cache."""

    def synchronize_device(self) -> None:
        """Wait for the device."""
        if self.resident.device.type == "cuda":
            torch.cuda.synchronize(self.resident.device)

    # --- sleep -----------------------------------------------------------------------------------------------------

    def sleep(self, level: int = 1) -> None:
        """Give memory back: the pages; at level 1 the weights move to the CPU, at level 2 they are dropped."""
        self.running.slots.session = Asleep()
        self.resident.sleep(level)

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Take memory again: "weights" first, then "kv_cache"; both if no tags are given.

        Weights that were dropped are made from the policy's folder again; the next update brings newer ones.

        Raises:
            RuntimeError: Pages are asked for while the weights are asleep.
        """
        if tags is None or "weights" in tags:
            self.resident.wake_weights()
            self.running.version = self.resident.version
        if tags is None or "kv_cache" in tags:
            self.running.slots.session = self.resident.open(self._num_pages - 1)
            self.running.forget_keys()

    # --- weights ---------------------------------------------------------------------------------------------------

    def wanted_weights(self) -> bytes:
        """List the policy's tensors, pickled; see `Receiver.wanted`."""
        return pickle.dumps(self.resident.wanted())

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Prepare for buckets that are broadcast; see `ResidentPolicy.join`."""
        self.resident.join(init_info)

    def start_weight_update(self) -> None:
        """Begin an update; see `ResidentPolicy.start_update`."""
        self.resident.start_update()

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Install a bucket, or read the header; see `ResidentPolicy.add_weights`."""
        try:
            self.resident.add_weights(update_info)
        finally:  # the weights are of no version until the update ends
            self.running.version = self.resident.version

    def finish_weight_update(self) -> None:
        """End the update; keys of the old weights are not read again, whatever vLLM's cache remembers."""
        try:
            self.resident.finish_update()
        finally:  # after a failed update the weights are not the old ones either
            self.running.version = self.resident.version
            self.running.forget_keys()

    def policy_version(self) -> int:
        """Return the version of the weights in place."""
        return self.resident.version


def _check_setup(config: VllmConfig, options: WorkerOptions) -> None:
    """Refuse settings of vLLM under which outputs would be wrong."""
    length, parallel = options.decode.block_length, config.parallel_config
    step = config.scheduler_config.max_num_seqs * (length + 1)
    broken = {
        "async_scheduling must be False": config.scheduler_config.async_scheduling,
        "enable_chunked_prefill must be False": config.scheduler_config.enable_chunked_prefill,
        f"block_size must be {length}, a diffusion block": config.cache_config.block_size != length,
        f"max_model_len must be a multiple of {length}": config.model_config.max_model_len % length,
        f"max_num_batched_tokens must be at least {step}": config.scheduler_config.max_num_batched_tokens < step,
        "the parallel sizes must be 1, the policy has one device": parallel.world_size_across_dp > 1,
        "speculative decoding must be off": config.speculative_config is not None,
    }
    if wrong := [rule for rule, is_broken in broken.items() if is_broken]:
        raise ValueError(
            f"{'; '.join(wrong)}: start vLLM with the arguments of redraft.rollout.vllm.engine.engine_arguments"
        )


def _log_probs(per_request: Sequence[Emission]) -> LogprobsLists | None:
    """Make a table with a line per emitted token, with the token itself as its only candidate.

    Requests that did not ask for log-probabilities have lines too, which vLLM skips. Ranks are not known: 0.
    """
    if not any(emission.log_probs for emission in per_request):
        return None
    tokens, values, ends = [], [], [0]
    for emission in per_request:
        tokens += emission.tokens
        values += emission.log_probs or [0.0] * len(emission.tokens)
        ends.append(len(tokens))
    return LogprobsLists(
        np.array(tokens, dtype=np.int32)[:, None],
        np.array(values, dtype=np.float32)[:, None],
        np.zeros(len(tokens), dtype=np.int32),
        ends,
    )
