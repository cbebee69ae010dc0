"""The shells' completion scripts, and what writes them here."""
