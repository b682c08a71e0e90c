"""HTTP API: routes, requests to jobs, and events to answers."""
