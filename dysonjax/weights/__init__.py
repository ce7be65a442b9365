"""Saved or live weight matrices: reading them, fits to their bulk and tail, the spectral report, the monitor."""
