"""Reward functions written for other libraries, unchanged: TRL and verl."""
