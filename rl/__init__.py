"""Learning: models, likelihoods, objectives, the training loop and the command line."""
