"""Passes at the speed at which weights can be read: compiled when first needed, over the weights that are loaded."""
