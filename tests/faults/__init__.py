"""Faults of the network, the disk and the process itself."""
