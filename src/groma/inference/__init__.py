"""Asking: pictures and questions in, grounded answers out."""
