"""`python -m redraft` is the command `redraft`."""

from redraft.rl.cli.main import main

if __name__ == "__main__":
    main()
