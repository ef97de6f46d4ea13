"""Commands of the command line beside training and testing: one file each."""
