"""How biased, noisy and well aimed every likelihood estimator is, against exact values."""
