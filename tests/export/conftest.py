"""One export of the style network with random weights, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from tests.export.models import style_spec
from torch import nn
from torch.export import ExportedProgram

from avsdk.spec import GraphSpec, ModelSpec
from avsdk_export.program import export_program, save_program
from avsdk_export.to_onnx import onnx_from_program, write_onnx
from avsdk_train.families.style_transfer.network import TransformerNet


@dataclass(frozen=True)
class Exported:
    """The network and everything made of it."""

    network: nn.Module
    spec: ModelSpec
    graph: GraphSpec
    program: ExportedProgram
    model: onnx.ModelProto
    onnx: Path
    program_file: Path


@pytest.fixture(scope="session")
def style(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("style")
    torch.manual_seed(7)
    network = TransformerNet().eval().requires_grad_(False)
    spec = style_spec()
    program = export_program(network, spec.graphs[0])
    save_program(program, folder / "transform.pt2")
    model = onnx_from_program(program, spec.graphs[0], spec)
    write_onnx(model, folder / "transform.onnx")
    return Exported(network, spec, spec.graphs[0], program, model, folder / "transform.onnx", folder / "transform.pt2")
