"""Checkpoints that a run goes on from exactly, and what makes it write them."""
