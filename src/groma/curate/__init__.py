"""Groma Instruct: asking a vision model for conversations about numbered regions, checked and written as published."""
