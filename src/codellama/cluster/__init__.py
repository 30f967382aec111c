"""Past one machine: vLLM's engine behind our server, and Ray. Nothing below knows of it."""
