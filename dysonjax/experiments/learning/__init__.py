"""Which settings learn: the phase diagram of anybody's network, boundaries with errors, and the advice."""
