"""Which algorithms learn, at one budget of forwards."""
