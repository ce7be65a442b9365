"""A run on disk: its store and metadata, paths and URLs, merging, checkpoints."""
