"""Watching a run: trackers that mirror its metrics, and the collapse alarm."""
