"""State-driven implicit modeling: an implicit model by convex optimisation from a teacher."""
