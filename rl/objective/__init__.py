"""Losses of a policy update, from log-ratios to one number. Pure functions."""
