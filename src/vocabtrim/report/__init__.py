"""Runs and token counts in, one page that says whether to ship the trimmed drafter out."""
