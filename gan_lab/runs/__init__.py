"""What a run leaves on the disk: its directory, lock and checkpoints."""
