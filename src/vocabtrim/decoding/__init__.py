"""Speculative decoding that emits exactly what the target would: sampling, drafts, acceptance."""
