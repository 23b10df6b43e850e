"""What people judge: which answers they are shown, blind; what they said; and what that proves."""
