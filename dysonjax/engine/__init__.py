"""The one loop and what surrounds it: the grid of replicas, planning, the cost estimate, `scan`."""
