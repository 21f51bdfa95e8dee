"""Drafter checkpoints: what their files look like, and cutting them without loading a model."""
