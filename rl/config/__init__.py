"""What a recipe may say, and how it is read. Loads neither torch nor ray."""
