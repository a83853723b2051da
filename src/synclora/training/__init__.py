"""Training: a configuration in, a LoRA file out; killed at any instant, it resumes exactly."""
