"""Errors of a cluster. Importing them does not load Ray, so a run in one process can name them too."""


class ClusterError(RuntimeError):
    """The cluster cannot do what the recipe asks, or stopped doing it."""


class LearnerLostError(ClusterError):
    """A rank of the learner died, hangs or cannot reach the others; a new learner can go on from a checkpoint."""
