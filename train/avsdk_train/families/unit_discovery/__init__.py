"""Unit discovery: speech to units and back by a Transformer VQ-VAE and a codebook inverter (Tjandra et al. 2020)."""
