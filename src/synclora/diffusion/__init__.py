"""The method's mathematics: the sequence, the flow, reference attention, and the LoRA."""
