"""From the terms of a recipe to the scores of a batch: where functions run, and how parts become one total."""
