#!/usr/bin/env bash
# What a device does: install the built wheel and one runtime into an empty environment without PyTorch, run a bundle.
set -euo pipefail
cd "$(dirname "$0")/.."
host=.venv/bin
runtime="${AVSDK_DEVICE_RUNTIME:-onnxruntime}"
max_wheel_mb=32  # nearly all of it is the zoo; tests/test_project.py holds the code to 2 MB and each model to 5
read -r -a pip_args <<< "${PIP_ARGS:-}"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "build the wheel"
"$host/python" -m pip wheel "${pip_args[@]}" --quiet --no-deps --wheel-dir "$work/wheel" .
wheel="$(ls "$work"/wheel/avsdk-*.whl)"
bytes="$(stat -c %s "$wheel")"
awk -v b="$bytes" -v name="$(basename "$wheel")" 'BEGIN { printf "%s: %.1f MB\n", name, b / 1e6 }'
((bytes < max_wheel_mb * 1000000)) || { echo "the wheel is larger than $max_wheel_mb MB"; exit 1; }

say "install avsdk[$runtime,media] into an empty environment"
"$host/python" -m venv "$work/device"
device="$work/device/bin"
"$device/python" -m pip install "${pip_args[@]}" --quiet -c constraints.txt "$wheel[$runtime,media]"
echo "packages installed: $("$device/python" -m pip list --format=freeze | grep -c -v -E '^(pip|setuptools|wheel)==')"
"$device/python" - <<'PYTHON'
from importlib.util import find_spec

found = [name for name in ("torch", "onnx", "torchvision", "tensorflow") if find_spec(name)]
if found:
    raise SystemExit(f"a device needs none of these, yet they were installed: {found}")
print("neither PyTorch nor ONNX is here")
PYTHON

say "export a bundle on the host"
photo="$("$host/python" tools/photograph.py "$work")"
"$host/avsdk" export zoo:style_transfer/wave --target "$runtime" --out "$work/bundles" --json > "$work/export.json"
bundle="$("$host/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["bundles"][0]["path"])' "$work/export.json")"
echo "$bundle"

say "run it on the device"
cd "$work"  # so that nothing of the source tree can be imported by accident
"$device/avsdk" bundle verify "$bundle"
"$device/avsdk" run "$bundle" "$photo" --out "$work/styled.png" --json
"$device/python" - "$photo" "$work/styled.png" <<'PYTHON'
import sys

import cv2
import numpy

photo, styled = (cv2.imread(path) for path in sys.argv[1:])
if styled is None or styled.shape != photo.shape:
    raise SystemExit(f"the picture is not as it should be: {None if styled is None else styled.shape}, wanted {photo.shape}")
change = float(numpy.abs(styled.astype(float) - photo.astype(float)).mean())
if change < 5 or styled.std() < 10:
    raise SystemExit(f"the picture is not stylised: mean change {change:.1f}, standard deviation {styled.std():.1f}")
print(f"stylised: {styled.shape[1]}x{styled.shape[0]}, mean change {change:.1f} of 255")
PYTHON
say "device-test passed"
