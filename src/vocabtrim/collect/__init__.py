"""Prompts -> what the target answers, as calibration text."""
