"""What is in a final answer, and whether it is the gold one: typesetting, words, lists, form, algebra."""
