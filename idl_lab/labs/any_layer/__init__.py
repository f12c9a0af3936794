"""Lab 14: the equilibrium of any module."""
