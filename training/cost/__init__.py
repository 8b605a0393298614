"""FLOPs and memory of an update, without running it."""
