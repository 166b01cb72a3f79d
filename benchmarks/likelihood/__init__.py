"""Speed and memory of the likelihood and of a learner step."""
