"""Places to run code that is not trusted. They start programs, and do not know what those are asked."""
