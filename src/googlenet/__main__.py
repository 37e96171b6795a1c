"""`python -m googlenet`: what torchrun starts on every process."""

from googlenet.cli import main

if __name__ == "__main__":
    main()
