"""The transition of Baik, Ben Arous and Péché in a linear student: arXiv:2606.28486."""
