"""Watch a run: open its experiment trackers, and raise the alarm when the policy collapses."""
