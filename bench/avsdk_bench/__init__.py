"""avsdk_bench: measuring bundles honestly, one process per cell, and reporting what was measured and how."""
