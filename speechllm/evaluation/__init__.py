"""From predictions to figures, tables and pages: what a test set says about a system, and about several."""
