"""What is not the RL loop: warm start, supervised training, evaluation, generation."""
