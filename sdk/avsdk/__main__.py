"""``python -m avsdk``: the command ``avsdk``, for launchers that start a module (``torchrun -m avsdk train ...``)."""

from avsdk.cli import main

main()
