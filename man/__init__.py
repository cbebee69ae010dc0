"""The manual, and what makes it."""
