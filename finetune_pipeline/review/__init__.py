"""What people judge: the blind sheet they are shown, what they decided, and what that proves."""
