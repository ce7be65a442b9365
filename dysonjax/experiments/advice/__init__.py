"""Which learning rates learn: an advice for anybody's network, in rounds."""
