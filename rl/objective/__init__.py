"""Losses of a policy update: pure functions from log-probabilities to one number."""
