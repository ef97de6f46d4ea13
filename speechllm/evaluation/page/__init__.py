"""The HTML page on which utterances of several systems are read, compared and heard side by side."""
