"""Write and read the folder of a run: metrics, samples, checkpoints, and the lock that keeps other processes out."""
