"""What the processes of one training share: device, precision, and everything that they must agree on.

``accelerate`` finds the device and the other processes (``torchrun`` and ``accelerate launch`` set them up); several
processes average their gradients (DDP), or with ``sharding = "full"`` also share the weights and the optimiser's state
out among them (FSDP2, ``torch.distributed.fsdp.fully_shard``; not through accelerate, which has it on no CPU).

``batch_size`` is each process's own: N processes with batches of b see in every step what one process with a batch of
N b sees, in the same order, and their mean gradient is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, is_torch_xla_available
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from avsdk.errors import AvsdkError, NotAvailable, SilentFallback, UsageError, error_from_json
from avsdk.host import default_threads
from avsdk_train.recipe import Recipe

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Processes:
    """This process among all that train one network. Made before anything is written, by every process alike."""

    def __init__(self, recipe: Recipe) -> None:
        self.accelerator = _accelerator(recipe)
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        self._sharded = recipe.sharding == "full"
        if self._sharded and (self.count == 1 or self.device.type == "xla" or recipe.mixed_precision == "fp16"):
            raise UsageError(
                f"sharding=full with {self.count} process on {self.device.type}, mixed_precision "
                f"{recipe.mixed_precision}",
                expected="several processes on CPUs or GPUs, and mixed_precision no or bf16",
                fix="torchrun --nproc_per_node 2 -m avsdk train ..., or --set sharding=none",
            )
        # Where the user does not say, the processes of one machine share its cores.
        torch.set_num_threads(recipe.threads or max(1, default_threads() // _local_processes()))

    def prepare(
        self, network: nn.Module, make_optimiser: Callable[[nn.Module], Optimizer]
    ) -> tuple[nn.Module, Optimizer]:
        """The network on its device, wrapped for these processes, and its optimiser."""
        if self._sharded:
            network.to(self.device)
            for child in network.children():
                if any(True for _ in child.parameters()):
                    fully_shard(child)
            fully_shard(network)
            return network, make_optimiser(network)
        prepared: tuple[nn.Module, Optimizer] = self.accelerator.prepare(network, make_optimiser(network))
        return prepared

    def unwrapped(self, network: nn.Module) -> nn.Module:
        """The network as the family made it."""
        inner: nn.Module = network if self._sharded else self.accelerator.unwrap_model(network)
        return inner

    def states(self, network: nn.Module, optimiser: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """State dicts of both, whole; with sharding every process must ask, and the first one gets them."""
        if self._sharded:
            weights, state = get_state_dict(network, optimiser, options=_WHOLE)
            return dict(weights), dict(state)
        return dict(self.unwrapped(network).state_dict()), optimiser.state_dict()

    def load_states(
        self, network: nn.Module, optimiser: Optimizer, weights: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Load what ``states`` gave, in every process."""
        if self._sharded:
            set_state_dict(
                network, optimiser, model_state_dict=dict(weights), optim_state_dict=dict(state), options=_WHOLE
            )
            return
        self.unwrapped(network).load_state_dict(dict(weights))
        optimiser.load_state_dict(dict(state))

    @property
    def hides_weights(self) -> bool:
        """Whether no process holds the whole network."""
        return self._sharded

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Each scalar, averaged over the processes; every process must ask."""
        if self.count == 1:
            return {name: float(value) for name, value in values.items()}
        stacked = torch.stack([value.detach().float() for value in values.values()])
        means = self.accelerator.reduce(stacked, "mean")
        return {name: float(value) for name, value in zip(values, means, strict=True)}

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes; every process must ask."""
        if self.count == 1:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum")
        return float(total) > 0

    def gathered(self, value: Any) -> list[Any]:
        """Everyone's value, in the order of the processes; every process must ask."""
        if self.count == 1:
            return [value]
        if self.device.type == "xla":  # accelerate gathers no objects there
            import torch_xla.core.xla_model as xla_model

            return list(xla_model.mesh_reduce("avsdk-gathered", value, list))
        return list(gather_object([value]))

    def on_main(self, act: Callable[[], None]) -> None:
        """Let the first process act while the others wait; its error is raised in all of them."""
        error: AvsdkError | None = None
        if self.is_main:
            try:
                act()
            except AvsdkError as caught:
                error = caught
        if self.count > 1:
            (told,) = broadcast_object_list([None if error is None else error.to_json()])
            if error is None and told is not None:
                error = error_from_json(told)
        if error is not None:
            raise error

    def end_step(self) -> None:
        """Let PyTorch/XLA run what was recorded; elsewhere it has run already."""
        if self.device.type == "xla":
            import torch_xla

            torch_xla.sync()

    def wait(self) -> None:
        """Until all have come here."""
        self.accelerator.wait_for_everyone()

    def notices(self) -> list[str]:
        """What the user should know: how many train, and what PyTorch/XLA trains on, which its name does not tell."""
        found = [f"{self.count} processes"] if self.count > 1 else []
        if self.device.type == "xla":
            tpu = is_torch_xla_available(check_is_tpu=True)
            found.append(f"training on {self.device}: {'a TPU' if tpu else 'no TPU, this processor stands in for one'}")
        return found


def end_step(device: torch.device) -> None:
    """Let PyTorch/XLA run what it has recorded of a step; elsewhere it has run already."""
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


def whole_tensor(value: Tensor) -> Tensor:
    """The tensor itself, or all parts of one that is shared out; then every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _local_processes() -> int:
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")  # torchrun's and accelerate's
    return max(1, int(text)) if text.isdecimal() else 1


def _accelerator(recipe: Recipe) -> Accelerator:
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable(
            "the recipe asks for device cuda, and torch sees none",
            expected="an NVIDIA card, its driver, and a torch built for CUDA",
            fix="--set device=cpu",
        )
    if recipe.device == "tpu" and not is_torch_xla_available(check_is_tpu=True):
        raise NotAvailable(
            "the recipe asks for device tpu, and PyTorch/XLA sees none",
            expected="a TPU, and the toolchain xla on its machine",
            fix="avsdk toolchain install xla, then: avsdk toolchain run xla -- avsdk train ...",
        )
    if recipe.mixed_precision == "fp16" and (recipe.device == "cpu" or not torch.cuda.is_available()):
        raise NotAvailable("fp16 training needs a GPU", expected="mixed_precision bf16 or no on a CPU",
                           fix="--set mixed_precision=bf16")  # fmt: skip
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in {"1", "true"}:
        raise UsageError("accelerate was launched with its own FSDP", expected="a launch without --use_fsdp",
                         fix="leave it out, and train with --set sharding=full")  # fmt: skip
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=recipe.device == "cpu")
    kind = accelerator.device.type
    if recipe.device != "auto" and kind != {"tpu": "xla"}.get(recipe.device, recipe.device):
        raise SilentFallback(
            f"the recipe asks for device {recipe.device}, and accelerate chose {kind}",
            expected=recipe.device,
            fix="train in an environment without torch_xla, or with --set device=auto",
        )
    return accelerator
