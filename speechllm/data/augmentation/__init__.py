"""What is done to the audio of training, and the noise that tests add."""
