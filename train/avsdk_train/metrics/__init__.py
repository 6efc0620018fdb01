"""The papers' metrics, and the intervals around them."""
