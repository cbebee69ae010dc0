"""Many rows of one file: reading and checking them, what has become of each, and which process works on which."""
