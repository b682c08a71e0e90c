"""What draws for a server: the Backend protocol, engines in processes of their own, and models by name."""
