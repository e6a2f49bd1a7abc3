"""Training: the engine, its loop and schedule, checkpoints, and tracking."""
