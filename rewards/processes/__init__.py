"""Warm worker processes with a deadline kept by the parent."""
