"""One file per engine, named as the engine. ``build`` runs in a child process; no compiler is imported at the top."""
