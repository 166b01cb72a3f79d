"""Policy networks: one folder per family. Only the registry and these folders name families."""
