"""One file per engine, named as the engine; each imports its runtime when a session opens, never before."""
