"""Feed-forward style transfer: photo in, painting out (Johnson et al. 2016)."""
