"""``python -m hjepa.audit SCRIPT``, for launchers that start modules (torchrun -m hjepa.audit train.py)."""

from hjepa.audit.command import main

if __name__ == "__main__":
    main()
