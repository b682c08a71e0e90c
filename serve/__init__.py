"""Image generation over HTTP and from the command line."""
