"""Sampling: the block grid, the editing decoder, its engines and the trajectories it leaves behind."""

if __name__ != "redraft.rollout":  # a second copy of every class and registry would follow
    raise ImportError(
        f"{__file__} is a part of Redraft and was imported as {__name__!r}; import redraft.rollout, or, for a package"
        " rollout of your own, run in its folder and not in a checkout of Redraft"
    )
