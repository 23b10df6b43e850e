"""Jobs, schedules and sensors of a task."""
