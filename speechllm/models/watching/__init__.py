"""Watching a run: how fast it is, where it stands, who is still there."""
