# pyright: reportMissingImports=false
"""vLLM's own scheduler with one more rule: a request whose block is not final yet stays in that block."""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from redraft.rollout.vllm.options import WorkerOptions


class BlockScheduler(Scheduler):
    """Schedule one denoising step of every running request per step of vLLM.

    The stock scheduler counts the tokens that a request has and those that the worker has run, and schedules the
    difference. A step that ends no block emits no token, so the difference would stay zero and the request would
    never be scheduled again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.policy.value != "fcfs":
            # With another policy, a scheduled request may be preempted in the same step, after its blocks were hashed.
            raise ValueError(f"scheduling_policy must be 'fcfs' for block diffusion, got {self.policy.value!r}")
        # One token ahead of the final ones lies the active block; this makes vLLM allocate its page.
        self.num_lookahead_tokens = 1
        self._stops = WorkerOptions.read(self.vllm_config.additional_config).tokens.stops

    def add_request(self, request: Request) -> None:
        """Accept a request; the model's stop tokens end it besides its own."""
        if request.sampling_params is not None:
            own = request.sampling_params.stop_token_ids or ()
            request.sampling_params.stop_token_ids = sorted({*own, *self._stops})
        super().add_request(request)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Take in one step; count one token less for requests that emitted none, so that they are scheduled again."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for request_id in scheduler_output.num_scheduled_tokens:
            request = self.requests.get(request_id)
            if request is not None and request.status == RequestStatus.RUNNING:
                request.num_computed_tokens = min(request.num_computed_tokens, request.num_tokens - 1)
        return outputs
