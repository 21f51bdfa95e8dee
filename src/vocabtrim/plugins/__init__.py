"""What engines load from an installed vocabtrim to serve trimmed drafters that they could not serve by themselves."""
