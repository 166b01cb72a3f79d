"""Benchmarks of Redraft itself: `redraft bench`. Nothing else in `rl` imports this package."""
