"""The `redraft` command: one file per verb, heavy imports inside the verbs."""
