"""What a recipe costs before anything runs: memory, traffic, time, from a shape and a machine. Loads no torch."""
