"""One module a subcommand: a signature, one call into the core, the rendering of what it returned."""
