"""Scoring: text in, score out. Imports no torch, no ray, and no other layer of the project."""

from rewards.format import boxed_format, format_match
from rewards.math import math_accuracy
from rewards.mixture import RewardMixture, Sample, Scored, status_counts
from rewards.result import RewardError, Status, Verdict
from rewards.reward import RewardTerm, resolve, reward

__all__ = [
    "RewardError",
    "RewardMixture",
    "RewardTerm",
    "Sample",
    "Scored",
    "Status",
    "Verdict",
    "boxed_format",
    "format_match",
    "math_accuracy",
    "resolve",
    "reward",
    "status_counts",
]
