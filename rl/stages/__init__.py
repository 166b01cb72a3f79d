"""Work outside of the RL loop: warm start, supervised training, evaluation, generation."""
