"""What can be said of a graph on an Arria 10 without the FPGA AI Suite: plan, accuracy, an estimate, the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from avsdk.golden import Sample
from avsdk.parity import Deviation, deviation
from avsdk.schema import encode
from avsdk_targets.fpga_architecture import Architecture
from avsdk_targets.fpga_emulation import Runner, emulation_of
from avsdk_targets.fpga_layers import SOURCE, Partition, batch_of, partition

HETERO = "HETERO:FPGA,CPU"


@dataclass(frozen=True)
class Accuracy:
    """One format's loss against the fp32 reference, the worst of the samples per output.

    ``overflows``: values beyond fp16's range in all samples together.
    """

    arch_precision: str
    samples: int
    outputs: tuple[Deviation, ...]
    overflows: int


@dataclass(frozen=True)
class FpgaReport:
    """``inputs``: the sizes that it holds for. ``accuracy`` is empty where it was not measured, ``unmeasured`` why."""

    graph: str
    architecture: Architecture
    plan: Partition
    inputs: Mapping[str, tuple[int, ...]]
    batch: int = 1
    accuracy: tuple[Accuracy, ...] = ()
    unmeasured: str = "no golden sample has these sizes"

    @property
    def estimate_ms(self) -> float:
        """Milliseconds per input of the multipliers at full rate: a floor, neither memory nor processor are in it."""
        return self.plan.cycles / (self.architecture.fmax_mhz * 1000)

    def commands(self) -> tuple[tuple[str, ...], ...]:
        """What compiles the ONNX where the suite is: its OpenVINO writes the IR, ``dla_compiler`` takes it."""
        ir = f"{self.graph}.xml"
        sizes = ",".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in self.inputs.items())
        return (
            ("ovc", f"{self.graph}.onnx", "--input", sizes, "--output_model", ir, "--compress_to_fp16=False"),
            dla_command(self.architecture.march, ir, f"{self.graph}.compiled.bin", self.batch),
        )

    def lines(self) -> list[str]:
        """The report for a reader."""
        unit = self.architecture
        kept = [f"{len(names)} x {reason}" for reason, names in self.plan.refused().items()]
        return [
            f"plan {HETERO}: {self.plan.fpga_share:.1%} of the work on the FPGA, in {self.plan.subgraphs} "
            + ("part" if self.plan.subgraphs == 1 else "parts")
            + (f"; on the processor: {'; '.join(kept)}" if kept else ""),
            *(_accuracy_line(item) for item in self.accuracy),
            *([] if self.accuracy else [f"accuracy not measured: {self.unmeasured}"]),
            f"estimate, not measured: at least {self.estimate_ms:.3g} ms per input at {unit.fmax_mhz:g} MHz "
            f"({Path(unit.file).stem}: k_vector {unit.k_vector}, c_vector {unit.c_vector}, num_lanes {unit.num_lanes}, "
            f"peak {unit.peak_gflops:.0f} GFLOP/s), memory and processor left out",
            "would run:",
            *(f"  {' '.join(words)}" for words in self.commands()),
        ]

    def to_json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "graph": self.graph,
            "plan": HETERO,
            "fpga_share": self.plan.fpga_share,
            "subgraphs": self.plan.subgraphs,
            "layers": [encode(layer) for layer in self.plan.layers],
            "limits": SOURCE,
            "accuracy": [encode(item) for item in self.accuracy],
            "accuracy_kind": "emulated in block floating point",
            "estimate_ms": self.estimate_ms,
            "estimate_kind": "estimate: multipliers at full rate",
            "architecture": {
                "file": Path(self.architecture.file).name,
                "arch_precision": self.architecture.arch_precision,
                "k_vector": self.architecture.k_vector,
                "c_vector": self.architecture.c_vector,
                "num_lanes": self.architecture.num_lanes,
                "fmax_mhz": self.architecture.fmax_mhz,
            },
        }


def dla_command(march: str, network: str, out: str, batch: int) -> tuple[str, ...]:
    """Getting Started Guide 768970, "Running the Graph Compiler": ahead of time, for the FPGA with the processor."""
    return (
        "dla_compiler",
        "--march",
        march,
        "--network-file",
        network,
        "--foutput-format=open_vino_hetero",
        "--o",
        out,
        f"--batch-size={batch}",
        "--fanalyze-performance",
        "--fplugin",
        HETERO,
    )


def plan_report(model: onnx.ModelProto, graph: str, architecture: Architecture) -> FpgaReport:
    """Plan and estimate, without running anything; the sizes must be fixed in the model."""
    given = {item.name for item in model.graph.initializer}
    inputs = {
        item.name: tuple(axis.dim_value for axis in item.type.tensor_type.shape.dim)
        for item in model.graph.input
        if item.name not in given
    }
    return FpgaReport(graph, architecture, partition(model, architecture), inputs, batch_of(model))


def measured_accuracy(
    model: onnx.ModelProto, architectures: Sequence[Architecture], samples: Sequence[Sample], runner: Runner
) -> tuple[Accuracy, ...]:
    """The emulated loss at each architecture, on samples of the model's size."""
    return tuple(_accuracy(model, item, samples, runner) for item in architectures) if samples else ()


def _accuracy(
    model: onnx.ModelProto, architecture: Architecture, samples: Sequence[Sample], runner: Runner
) -> Accuracy:
    emulation = emulation_of(model, architecture, partition(model, architecture), runner)
    worst: dict[str, Deviation] = {}
    for feeds, wanted in samples:
        found = emulation.run(feeds)
        for name, array in wanted.items():
            now = deviation(model.graph.name, name, array, found[name])
            worst[name] = min(worst.get(name, now), now, key=lambda item: item.snr_db)
    return Accuracy(architecture.arch_precision, len(samples), tuple(worst.values()), emulation.overflows)


def with_sizes(model: onnx.ModelProto, graph: Mapping[str, Any], sizes: Mapping[str, int] | None) -> onnx.ModelProto:
    """The model with the sizes of the spec's axes written into its inputs. ``graph``: the GraphSpec as a document."""
    shapes = {item["name"]: item["shape"] for item in graph["inputs"]}
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            axis.dim_value = size if isinstance(size, int) else int((sizes or {})[size])
    return model


def _accuracy_line(item: Accuracy) -> str:
    found = "; ".join(
        f"{output.name} SNR {output.snr_db:.1f} dB, largest error {output.max_abs:.2g} "
        f"({output.max_rel:.2%} of the largest value)"
        for output in item.outputs
    )
    noun = "sample" if item.samples == 1 else "samples"
    beyond = f"; {item.overflows} values beyond fp16 were cut" if item.overflows else ""
    return f"accuracy at {item.arch_precision}, emulated on {item.samples} golden {noun}: {found}{beyond}"
