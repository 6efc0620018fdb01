"""Unit discovery: speech to units and back by a Transformer VQ-VAE and a codebook inverter (Tjandra et al. 2020)."""

from __future__ import annotations

from avsdk_train.families.unit_discovery.family import UnitDiscovery

__all__ = ["UnitDiscovery"]
