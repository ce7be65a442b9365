"""Which learning rates learn: the probability of learning, its boundary, and how that moves with the batch size."""
