"""Draw the prompts of one batch and have them decoded and scored, in several rounds if the recipe allows them.

DAPO's dynamic sampling (arXiv 2503.14476): a group whose completions all have the same reward has advantages of 0. So
further prompts are drawn until enough groups hold different rewards, or `rollout.max_sampling_rounds` are used up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.mixture import Sample
from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import batch_indices
from redraft.rl.data.tasks import Row
from redraft.rl.experience.pipeline import Answers, Pipeline
from redraft.rollout.trajectory import Completion, Prompt


@dataclass
class Sampled:
    """Everything decoded and scored for one batch, in groups; the lists are aligned.

    Attributes:
        samples: What the rewards saw.
        learned: Indices of the completions to learn from.
        rollout_s: Seconds of decoding, over all rounds; the next two as in `Answers`.
    """

    prompts: list[Prompt] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    scored: list[SampleScore] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    rollout_s: float = 0.0
    reward_s: float = 0.0
    reward_overlap_s: float = 0.0

    def add(self, answers: Answers) -> None:
        """Append the results of one round."""
        self.completions += answers.completions
        self.samples += answers.samples
        self.scored += answers.scored
        self.rollout_s += answers.rollout_s
        self.reward_s += answers.reward_s
        self.reward_overlap_s += answers.reward_overlap_s

    def learnable(self, rewards: Sequence[float | None]) -> tuple[list[Prompt], list[Completion], list[float | None]]:
        """Return the prompts, completions and rewards to learn from; `rewards` has one per completion of the batch."""
        chosen = self.learned
        return [self.prompts[i] for i in chosen], [self.completions[i] for i in chosen], [rewards[i] for i in chosen]


@dataclass(frozen=True)
class Sampler:
    """Draw prompts of a run's rows and have them decoded and scored."""

    config: RunConfig
    rows: Sequence[Row]
    pipeline: Pipeline

    def batch(self, step: int) -> Sampled:
        """Sample the batch of one step; a pure function of (seed, step) and the policy."""
        wanted, rounds = self.config.rollout.prompts_per_step, self.config.rollout.max_sampling_rounds
        sampled = Sampled()
        for number in range(rounds):
            self._round(sampled, step, number)
            sampled.learned = _informative(sampled, wanted) if rounds > 1 else list(range(len(sampled.prompts)))
            if len({sampled.prompts[index].group for index in sampled.learned}) >= wanted:
                break
        return sampled

    def _round(self, sampled: Sampled, step: int, number: int) -> None:
        rollout, seed = self.config.rollout, self.config.seed
        place = step * rollout.max_sampling_rounds + number  # counts rounds, so that no prompt comes twice in an epoch
        rows = [self.rows[index] for index in batch_indices(len(self.rows), rollout.prompts_per_step, seed, place)]
        prompts = self.pipeline.codec.prompts(rows, rollout.num_generations, "rollout", place)
        shift = number * rollout.prompts_per_step
        sampled.prompts += [replace(prompt, group=prompt.group + shift) for prompt in prompts]
        sampled.add(self.pipeline.run(rows, prompts, rollout.decode))


def _informative(sampled: Sampled, wanted: int) -> list[int]:
    """Find the completions of the first `wanted` groups that hold different rewards before shaping."""
    found: dict[int, set[float]] = {}
    for prompt, one in zip(sampled.prompts, sampled.scored, strict=True):
        if one.unshaped is not None:
            found.setdefault(prompt.group, set()).add(one.unshaped)
    chosen = set([group for group, values in found.items() if len(values) > 1][:wanted])
    return [index for index, prompt in enumerate(sampled.prompts) if prompt.group in chosen]
