"""The child process that runs models: its entry and jobs, supervision, devices."""
