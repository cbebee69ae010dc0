"""Pictures: download, names, formats, sidecars, image prompts, and earlier requests."""
