"""A trimmed drafter in, what an engine loads today out."""
