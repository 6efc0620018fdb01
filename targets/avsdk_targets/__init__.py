"""ONNX to bundle: targets, devices, toolchains and compilers."""

from __future__ import annotations
