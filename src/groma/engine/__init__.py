"""Many questions at once: pictures encoded once, answers said side by side, places that are freed at once."""
