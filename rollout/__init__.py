"""Sampling: the block grid, the editing decoder, its engines and the trajectories it leaves behind."""
