"""What rewards cost, and whether they hold out."""
