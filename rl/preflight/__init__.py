"""What is refused before step 0: a run that cannot work costs a minute, never a night."""
