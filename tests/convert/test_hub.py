"""Names on the hub: what is fetched, and what is said when it cannot be. Nothing here goes online."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from groma.convert.hub import HUB_NAME, download
from groma.errors import CheckpointError


def failing(monkeypatch, error):
    def snapshot_download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


RESPONSE = SimpleNamespace(headers={}, request=None)  # as much of an answer as the errors look at


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "no folder here and no model on the Hugging"),
        (errors.GatedRepoError("403", response=RESPONSE), "terms to be accepted"),
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (errors.HFValidationError("bad"), "no name that a model on the hub can have"),
        (errors.HfHubHTTPError("500 Server Error", response=RESPONSE), "could not be fetched"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_goes_wrong_is_one_sentence(monkeypatch, error, message):
    failing(monkeypatch, error)
    with pytest.raises(CheckpointError, match=message) as caught:
        download("owner/name")
    assert "owner/name" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("files", "calls"), [(["model.safetensors"], 1), (["pytorch_model.bin"], 2)])
def test_one_kind_of_weights_is_fetched(monkeypatch, tmp_path, files, calls):
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append(allow_patterns)
        for file in files:
            if f"*{file[file.index('.') :]}" in allow_patterns:
                (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download("owner/name") == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == files
    assert len(asked) == calls
    assert all("*.json" in patterns and "*.model" in patterns for patterns in asked)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True),
        ("Owner-1/Name_2.3", True),
        ("name", False),
        ("a/b/c", False),
        ("./folder", False),
        ("../folder", False),
        ("/folder/name", False),
        ("folder/", False),
        ("owner/na me", False),
    ],
)
def test_what_can_be_a_name(name, is_one):
    assert (HUB_NAME.fullmatch(name) is not None) == is_one
