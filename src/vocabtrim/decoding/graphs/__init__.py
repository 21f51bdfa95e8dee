"""Passes over memory that stays where it is, so that a CUDA graph can be recorded once and replayed."""
