"""Whether the Langevin picture describes a given model."""
