"""Log-probabilities of scored views: the only caller of the network during learning."""
