"""Arithmetic with replicas on the last axis: small products, random numbers, eigenvalues, singular values."""
