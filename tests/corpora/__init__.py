"""Tiny corpora in the layouts that users have on disk, written by the tests that read them."""
