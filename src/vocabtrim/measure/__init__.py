"""What decoding was worth: sums over recorded rounds, and the ratios that come from them."""
