"""Prompts to completions to rewards to advantages: what one batch learns from."""
