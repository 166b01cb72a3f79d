"""Weights on their way from the learner to a rollout engine: cut into buckets, carried, installed and checked."""
