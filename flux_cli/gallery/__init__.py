"""One HTML page of what was made: found, scaled down, and written as a file that needs nothing else."""
