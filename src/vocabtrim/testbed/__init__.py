"""Models to try vocabtrim on: published layouts with random weights, a small real model, and what `demo` runs on."""
