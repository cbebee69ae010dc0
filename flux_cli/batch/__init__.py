"""Batches: reading and checking rows, planning a run, and recording what happens in the batch directory."""
