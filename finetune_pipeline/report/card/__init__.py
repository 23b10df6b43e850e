"""The model card: what stands beside a model that is passed on, in the Hugging Face format."""
