"""A trimmed drafter in, what an engine loads today out. Named so that `vocabtrim.export` can be the function."""
