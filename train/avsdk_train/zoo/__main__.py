"""``python -m avsdk_train.zoo``: the same as ``avsdk zoo``."""

from __future__ import annotations

from avsdk_train.cli import zoo_app

if __name__ == "__main__":
    zoo_app()
