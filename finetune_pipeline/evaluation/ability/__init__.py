"""What a model can do besides its task, before and after training: items, their scores by likelihood, the drop."""
