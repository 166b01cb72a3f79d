"""Several processes as one learner: who has which rows, which weights, and when they wait for each other."""
