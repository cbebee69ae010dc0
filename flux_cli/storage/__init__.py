"""What is kept on this machine: history, config, and files that are written atomically."""
