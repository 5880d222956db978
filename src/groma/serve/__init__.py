"""HTTP: what OpenAI's clients speak, plain addresses for boxes, and the page."""
