"""From calibration text to token counts."""
