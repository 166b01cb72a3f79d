"""The algorithms that `redraft bench learning` compares, each at one budget of forwards."""

from rl.config import AlgorithmConfig

DEFAULT_FORWARDS = 2


def algorithms(forwards: int = DEFAULT_FORWARDS) -> dict[str, AlgorithmConfig]:
    """Every algorithm by name, with `forwards` composite forwards per completion where it lets one choose.

    `trajectory` scores all steps that the decoder took, however many they are; what a run really spent stands in its
    record.
    """
    return {
        "trajectory": AlgorithmConfig(estimator="trajectory"),
        "trajectory_sampled": AlgorithmConfig(estimator="trajectory_sampled", num_mc=forwards),
        "elbo": AlgorithmConfig(estimator="elbo", ratio="sequence", num_mc=forwards),
    }
