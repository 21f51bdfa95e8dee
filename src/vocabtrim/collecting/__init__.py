"""Prompts in, what the target answers out, as calibration text."""
