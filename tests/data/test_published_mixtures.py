"""The mixtures of the published stages (method, section 4), and how a user gets them."""

import pytest

from groma.cli import main
from groma.data.catalogue import CATALOGUE
from groma.data.mixture import PLACEHOLDER, published_mixture, read_mixture
from groma.errors import InputError

REFERRING = {"refcoco": 1, "refcoco+": 1, "refcocog": 1, "refcocog_captions": 1, "flickr30k": 1}
SHARES = {
    "detect": {"coco": 1, "objects365": 1, "openimages": 1, "v3det": 1, "sa1b": 1},
    "align": REFERRING | {"sharegpt4v_pretrain": 1, "visual_genome": 0.2, "grit": 0.1, "coco": 1},
    "instruct": REFERRING
    | {"llava_conversation": 1, "llava_reasoning": 1, "sharegpt4v": 0.23}
    | {"visual_genome_many": 1, "coco": 0.5, "groma_instruct": 1},
}


@pytest.mark.parametrize("stage", SHARES)
def test_shares_are_those_of_the_published_runs(stage, tmp_path):
    out = tmp_path / "mixture.yaml"
    assert main(["data", "published", stage, "--root", "/data sets/é", "--out", str(out)]) == 0
    config = read_mixture(out)
    assert {one.name or one.set: one.share for one in config.sets} == SHARES[stage]
    assert config.root == "/data sets/é"
    for one in config.sets:
        assert (CATALOGUE[one.set].head is not None) or stage != "detect"


def test_a_placeholder_that_is_left_is_told(tmp_path, capsys):
    assert main(["data", "published", "align"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == published_mixture("align").strip() and PLACEHOLDER in printed
    (tmp_path / "align.yaml").write_text(printed)
    with pytest.raises(InputError, match=f"root is still {PLACEHOLDER}"):
        read_mixture(tmp_path / "align.yaml")
