"""The learner's end of a weight sync, and the check that an engine decodes with what it was sent."""
