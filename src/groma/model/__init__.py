"""The model: pixels and token ids in, logits and losses out. It knows tensors and no text."""
