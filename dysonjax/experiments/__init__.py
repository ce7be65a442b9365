"""The papers' experiments, made of the same public pieces that a user has."""
