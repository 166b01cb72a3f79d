"""How many right answers the math reward finds, and how many wrong ones it pays."""
