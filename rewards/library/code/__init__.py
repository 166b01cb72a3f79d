"""Code rewards: a completion's code against the tests of its row, with only the code in the sandbox."""
