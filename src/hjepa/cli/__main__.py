"""``python -m hjepa.cli``, as launchers of several processes need it."""

from hjepa.cli import main

if __name__ == "__main__":
    main()
