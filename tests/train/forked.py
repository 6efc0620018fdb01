"""Several trainings, each by several processes, out of one Python: what is imported once is forked, not started anew.

    python -m tests.train.forked '[{"processes": 2, "words": ["train", "tiny", ...], "interrupt": [1, 3]}]'

Prints the exit codes of all processes, training by training, as JSON. ``interrupt``: the process that gets SIGINT in
that step (from 0). The processes meet on the loopback device only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

from tests.train import tiny_family

from avsdk import cli
from avsdk_train import loop


def codes_of(training: dict[str, Any]) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(training["processes"]):
        child = os.fork()
        if child == 0:
            run(training, rank, port)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(training: dict[str, Any], rank: int, port: int) -> None:
    count = str(training["processes"])
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=count, LOCAL_WORLD_SIZE=count,
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1",
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    if training.get("interrupt", [-1])[0] == rank:
        interrupt_at(training["interrupt"][1])
    os.dup2(2, 1)
    code: Any = 1
    try:
        with contextlib.suppress(KeyboardInterrupt):
            cli.main(training["words"])
    except SystemExit as left:
        code = left.code
    finally:
        sys.stderr.flush()
        os._exit(code or 0)


def interrupt_at(step: int) -> None:
    whole = loop._Trainer.losses

    def interrupted(self: Any, batch: Any, at: int) -> Any:
        if at == step:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)  # as torchrun passes it on
        return whole(self, batch, at)

    loop._Trainer.losses = interrupted  # type: ignore[method-assign]


if __name__ == "__main__":
    tiny_family.register()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.root_app()
    sys.stdout.write(json.dumps([codes_of(training) for training in json.loads(sys.argv[1])]) + "\n")
