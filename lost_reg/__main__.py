"""`python -m lost_reg` is `lost-reg`."""

from lost_reg.cli.app import main

if __name__ == "__main__":
    main()
