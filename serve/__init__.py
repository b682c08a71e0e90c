"""The product: pictures over HTTP and from the command line."""
