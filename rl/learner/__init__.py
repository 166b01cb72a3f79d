"""Optimizer steps: experience in, new weights and saved state out."""
