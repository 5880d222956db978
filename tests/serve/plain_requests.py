"""What the tests of a server's setup ask, and the keys with which they ask."""

from typing import Any

from hostile_server import GOOD_URL, chat

KEY, OTHER_KEY = "key-of-the-tests-0123456789", "another-key-of-the-tests-9876"
CHAT = "/v1/chat/completions"


def asked() -> dict[str, Any]:
    """Addresses of questions -> a question."""
    return {
        CHAT: chat(),
        "/locate": {"image": GOOD_URL, "phrase": "dog"},
        "/describe": {"image": GOOD_URL, "boxes": [[10, 10, 60, 60]]},
        "/regions": {"image": GOOD_URL},
    }
