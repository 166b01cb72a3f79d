"""Benchmarks of Redraft: python -m benchmarks. They import the product and are not installed."""
