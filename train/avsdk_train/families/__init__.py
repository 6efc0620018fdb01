"""One folder per model system."""
