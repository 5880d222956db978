"""Checkpoints from elsewhere: files of weights, the hub, and the published layout."""
