"""Systems side by side: one table in four formats, and pictures."""
