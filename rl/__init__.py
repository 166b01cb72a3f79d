"""Learning: models, likelihoods, objectives, the training loop and the command line."""

if __name__ != "redraft.rl":  # a second copy of every class and registry would follow
    raise ImportError(
        f"{__file__} is a part of Redraft and was imported as {__name__!r}; import redraft.rl, or, for a package"
        " rl of your own, run in its folder and not in a checkout of Redraft"
    )
