"""What a recipe takes: counted before anything is loaded, and measured with random weights."""
