"""`python -m normbench`: the same command line as the console script."""

from normbench.cli import main

if __name__ == "__main__":
    main()
