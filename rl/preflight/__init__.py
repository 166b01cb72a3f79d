"""Refuse, before anything is trained, a run that cannot work."""
