"""The manual: its sources, the pages for `man`, and the generator."""
