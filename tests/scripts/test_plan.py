"""`imtok plan` through the composed config."""

import json

import pytest

from imtok.configs.errors import UserError
from imtok.scripts.plan import main


def test_json_holds_together(capsys):
    assert main(["experiment=quickstart", "debug=tiny", "data.batch_size=3", "trainer.max_updates=7", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images_per_update"] == 3 and plan["images_seen"] == 21
    assert plan["tokens_per_update"] == 3 * plan["tokens_per_image"]
    assert plan["memory_total_bytes"] == sum(plan["memory_bytes"].values()) > 0
    assert {"encoder", "quantizer", "decoder"} <= set(plan["parameters"])


def test_table_names_the_parts(capsys):
    main(["experiment=quickstart", "debug=tiny"])
    said = capsys.readouterr().out
    for word in ("encoder", "decoder", "optimizer", "activations", "tokens an image", "bits an image", "total"):
        assert word in said


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        main(["experiment=quikstart"])
    with pytest.raises(UserError, match="key=value"):
        main(["quickstart"])
