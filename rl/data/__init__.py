"""Rows and tokens: where rows come from, what a row must be, and how texts become token ids."""
