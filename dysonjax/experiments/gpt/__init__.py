"""A small GPT on a text, its spectra on the way: arXiv:2411.13512."""
