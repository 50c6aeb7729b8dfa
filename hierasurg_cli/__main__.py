"""`python -m hierasurg_cli`, the same as `hierasurg`."""

from hierasurg_cli.app import main

if __name__ == "__main__":
    main()
