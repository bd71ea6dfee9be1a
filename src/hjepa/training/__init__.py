"""The algorithm: training step and loop, objective, schedules, optimizer and health measures."""
