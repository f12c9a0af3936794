"""State-driven implicit modeling: a teacher's states turned into an implicit model, convexly."""
