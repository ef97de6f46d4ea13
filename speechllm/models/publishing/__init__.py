"""A trained model as a folder to share: its weights, its card, and the check of what was written."""
