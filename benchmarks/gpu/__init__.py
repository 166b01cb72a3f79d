"""Everything that only a GPU can tell; see README.md beside this file."""
