"""``python -m avsdk``: the command ``avsdk``, for launchers that start a module (``torchrun -m avsdk train ...``)."""

from avsdk.cli import main

if __name__ == "__main__":  # a worker process imports this module anew
    main()
