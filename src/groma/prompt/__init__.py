"""The language Groma speaks: dialogues to tokens (`render`) and generated tokens to answers (`parse`)."""
