"""Watching a run: its lines and tables on the console, trackers that mirror its metrics, and the collapse alarm."""
