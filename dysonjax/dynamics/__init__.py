"""How a replica moves: SGD in its variants, and the Langevin equations of matrices and of their levels."""
