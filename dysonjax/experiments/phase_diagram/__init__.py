"""The phase diagram of the tanh network: arXiv:2509.01349."""
