"""Procedural scenes: pictures of objects with exact boxes, and questions about them."""
