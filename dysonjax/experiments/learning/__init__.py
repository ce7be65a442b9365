"""Which learning rates of a network learn: its definitions, its phase diagram, the boundary with its errors."""
