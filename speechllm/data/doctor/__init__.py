"""The corpus doctor: what is wrong with audio and texts, and what training should leave out."""
