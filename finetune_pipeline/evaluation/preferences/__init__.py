"""Which of two answers is better: by likeness to the reference, or by a language model people have agreed with."""
