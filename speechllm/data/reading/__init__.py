"""What readers of corpora share: text files, headers of audio, stretches of it, and the cleaning of transcripts."""
