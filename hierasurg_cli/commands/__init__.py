"""One module a command, each a paragraph: resolve the config, call the core, show what it returns."""
