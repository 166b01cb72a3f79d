"""The rewards that Redraft brings: math, code, instructions, puzzles, format, length, a judge."""
