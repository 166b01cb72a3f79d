"""From terms of a recipe to scores of a batch: where functions run, how parts become one total."""
