"""Kept size, draft length and tree shape together, from what is measured on the machine at hand."""
