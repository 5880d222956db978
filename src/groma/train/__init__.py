"""Training: an objective for each stage, one loop for all."""
