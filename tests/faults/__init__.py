"""What can go wrong, made to go wrong: on the wire, on the disk, and to the process itself."""
