"""Tests of vocabtrim.vocabulary."""
