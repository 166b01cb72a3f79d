"""Prompts to completions to rewards to advantages: what one step learns from."""
