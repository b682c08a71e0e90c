"""The HTTP API: routes, and the path from a request to jobs and from events to an answer."""
