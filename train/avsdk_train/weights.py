"""Named tensors in safetensors files: the only form in which weights are read or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from avsdk.errors import CheckpointRefused, UsageError
from avsdk.files import atomic_file


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file; pickled files are refused, whatever their name."""
    if not path.is_file():
        raise UsageError(f"the weights {str(path)!r} are not a file", expected="a safetensors file, a run or zoo:NAME")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointRefused(
            f"{path} is no safetensors file: {error}",
            expected="safetensors weights; pickled checkpoints (.pt, .pth) can run code and are not read",
            fix="get a whole copy, or convert it to safetensors where you trust it",
        ) from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write the tensors whole or not at all."""
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Not save_file: it makes a file of its own that only its owner may read.
    data = save(held, dict(metadata) if metadata else None)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
