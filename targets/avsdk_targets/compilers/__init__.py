"""One file per engine, named as the engine. ``build`` runs in a child process; nothing here imports a compiler at the top."""
