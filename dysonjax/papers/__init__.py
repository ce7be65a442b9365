"""One module a paper: the experiment, its estimators, its figures, made of the public pieces."""
