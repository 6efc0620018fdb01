"""One predictor per family, and the generic ones."""
