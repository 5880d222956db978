"""Where pictures, boxes and dialogues come from."""
