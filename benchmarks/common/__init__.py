"""What several benchmarks share: records, timing, small fixtures."""
