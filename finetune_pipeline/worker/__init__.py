"""The child process that runs models: its entry, supervision, devices."""
