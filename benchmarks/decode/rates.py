"""Timed decodes at forced tokens per forward, in one number of slots: one session, and with it one set of graphs."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from benchmarks.common.policies import decode
from benchmarks.decode.bytes import total_bytes, weight_bytes
from benchmarks.decode.forced import ForcedSession, Traffic, TrafficSession
from benchmarks.decode.meter import KeptEngine, Meter, WrappedEngine, clock_of, metered
from benchmarks.decode.profile import costs_of
from benchmarks.decode.workload import BLOCK
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.graphs import GraphUse
from redraft.rollout.engine.protocol import DecodeSession, Engine
from redraft.rollout.engine.torch_engine import TorchEngine, TorchSession
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

RULES: Final = DecodeConfig(block_length=BLOCK, threshold=0.5, editing_threshold=0.5)
PROFILED_BLOCKS: Final = 2
KERNELS: Final = 25
Wrap = Callable[[DecodeSession], DecodeSession]


class ForcedBench:
    """Decodes the same prompts, as many as slots, again and again.

    Graphs are captured at the first pass of each size, and sizes depend on rows and blocks but not on the rate: after
    `warm_up` none is captured inside a measurement.

    Args:
        model: The policy.
        tokens: Its special ids; nothing stops a completion.
        prompts: Of whole blocks.
        new_tokens: Per completion.
    """

    def __init__(self, model: Any, tokens: SpecialTokens, prompts: tuple[Prompt, ...], new_tokens: int) -> None:
        self.model, self.tokens, self.prompts, self.new_tokens = model, tokens, prompts, new_tokens
        self.engine = KeptEngine(TorchEngine(model))
        self.clock = clock_of(self.engine.device)

    def warm_up(self, rate: float) -> float:
        """One whole decode, which captures what there is to capture; seconds."""
        return self._decode(self._forced(rate))[0]

    def visits(self, rate: float) -> float:
        """Different experts per pass, summed over layers, counted in one block of all rows.

        Routes are recorded outside graphs, some thousand launches a pass, hence so few of them.
        """
        traffic, experts = Traffic(), self.model.config.num_experts
        engine = self._forced(rate, lambda session: TrafficSession(session, traffic, experts))
        self._decode(engine, min(self.new_tokens, BLOCK))
        return traffic.visits

    def measure(self, rate: float, visits: float, repeats: int) -> dict[str, Any]:
        """Decodes once metered and then `repeats` times timed.

        Args:
            rate: Tokens per forward.
            visits: See `visits`.
            repeats: Timed decodes; the median is reported.
        """
        traffic, meter = Traffic(), Meter()
        counted = self._forced(rate, lambda session: TrafficSession(session, traffic))
        metered_s, completions = self._decode(metered(counted, meter, self.clock))
        before = self._graph_use()
        seconds = [self._decode(self._forced(rate))[0] for _ in range(repeats)]
        after = self._graph_use()
        num_tokens, median = len(self.prompts) * self.new_tokens, statistics.median(seconds)
        replayed = None if before is None or after is None else after.replayed - before.replayed
        return {
            "tokens": num_tokens,
            "seconds": median,
            "seconds_of_runs": seconds,
            "tokens_per_s": num_tokens / median,
            "tokens_per_forward": num_tokens / sum(one.num_forwards for one in completions),
            "passes": meter.passes,
            "prefills": meter.prefills,
            "passes_from_graphs": 0.0 if replayed is None else replayed / repeats / meter.passes,
            "ms_per_pass": 1000 * median / meter.passes,
            "policy_share": (metered_s - meter.model_s) / (metered_s - meter.prefill_s),
            "bytes": total_bytes(self.model, traffic, visits),
            "experts_per_layer": visits / weight_bytes(self.model)["routed"],
        }

    def graphs(self) -> dict[str, Any] | None:
        """What became of all passes of the session so far; None: it uses no graphs."""
        use = self._graph_use()
        return None if use is None else asdict(use)

    def compare_plain(self, rate: float) -> dict[str, Any] | None:
        """The same decode without graphs: its speed, and how many of its tokens are the same; None without graphs.

        Graphs pad a pass, which may round its sums otherwise: in 16 bits, with the nearly even probabilities of random
        weights, a share of the tokens differs, and with them all that follows. A graph that reads or writes a wrong
        place leaves hardly any token equal.
        """
        if self._graph_use() is None:
            return None
        _, ours = self._decode(self._forced(rate))
        plain = KeptEngine(TorchEngine(self.model, cuda_graphs=False))
        self._decode(self._forced(rate, engine=plain), BLOCK)
        seconds, theirs = self._decode(self._forced(rate, engine=plain))
        same = [
            mine == other
            for one, two in zip(ours, theirs, strict=True)
            for mine, other in zip(one.token_ids, two.token_ids, strict=True)
        ]
        return {
            "rate": rate,
            "tokens_per_s": len(self.prompts) * self.new_tokens / seconds,
            "same_tokens": sum(same) / len(same),
            "same_rows": sum(one.token_ids == two.token_ids for one, two in zip(ours, theirs, strict=True)),
        }

    def profile(self, rate: float) -> dict[str, Any]:
        """The largest costs of a pass: kernels on a GPU, operators elsewhere; the mean of some passes."""
        meter, new_tokens = Meter(), min(self.new_tokens, PROFILED_BLOCKS * BLOCK)
        self._decode(metered(self._forced(rate), meter, lambda: 0.0), new_tokens)
        costs = costs_of(lambda: self._decode(self._forced(rate), new_tokens), self.engine.device)
        total = sum(cost.seconds for cost in costs)
        return {
            "rate": rate,
            "passes": meter.passes,
            "ms_per_pass": 1000 * total / meter.passes,
            "launches_per_pass": sum(cost.calls for cost in costs) / meter.passes,
            "costs": [
                {
                    "name": cost.name,
                    "ms_per_pass": 1000 * cost.seconds / meter.passes,
                    "share": cost.seconds / total,
                    "calls_per_pass": cost.calls / meter.passes,
                }
                for cost in costs[:KERNELS]
            ],
        }

    def _forced(self, rate: float, inside: Wrap | None = None, engine: Engine | None = None) -> Engine:
        """The engine at forced tokens per forward, its sessions first wrapped by `inside`."""

        def wrap(session: DecodeSession) -> DecodeSession:
            return ForcedSession(inside(session) if inside else session, self.tokens.mask, rate)

        return WrappedEngine(engine or self.engine, wrap)

    def _decode(self, engine: Engine, new_tokens: int | None = None) -> tuple[float, list[Completion]]:
        config = RULES.model_copy(update={"max_completion_length": new_tokens or self.new_tokens})
        started = self.clock()
        completions = decode(engine, self.prompts, config, self.tokens, len(self.prompts))
        return self.clock() - started, completions

    def _graph_use(self) -> GraphUse | None:
        """A copy: the session's own goes on counting."""
        session = self.engine.session
        use = session.graphs if isinstance(session, TorchSession) else None
        return None if use is None else GraphUse(**asdict(use))
