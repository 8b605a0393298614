"""`imtok plan` through the composed config."""

import json

import pytest

from imtok.common.console import codebook_words
from imtok.common.errors import UserError
from imtok.scripts.plan import amount, main


def test_json_holds_together(capsys):
    assert main(["experiment=quickstart", "debug=tiny", "data.batch_size=3", "trainer.max_updates=7", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images_per_update"] == 3 and plan["images_seen"] == 21
    assert plan["tokens_per_update"] == 3 * plan["tokens_per_image"]
    assert plan["memory_total_bytes"] == sum(plan["memory_bytes"].values()) > 0
    assert {"encoder", "quantizer", "decoder"} <= set(plan["parameters"])


def test_devices_share_the_batch(capsys):
    words = ["experiment=quickstart", "debug=tiny", "data.batch_size=16", "--json"]
    plans = []
    for more in ([], ["devices=8"], ["devices=4", "data.batch_per_device=2"]):
        assert main([*words, *more]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    alone, eight, four = plans
    assert [p["batch_size"] for p in plans] == [16] * 3 and [p["images_seen"] for p in plans] == [32] * 3
    assert [p["batch_per_device"] for p in plans] == [16, 2, 2] and four["accumulate"] == 2
    assert eight["update_flops"] == four["update_flops"] == alone["update_flops"]
    sizes = [p["memory_bytes"]["activations"] for p in plans]
    assert sizes[1] == pytest.approx(sizes[2], rel=0.1) and sizes[1] < sizes[0] / 4
    assert eight["memory_bytes"]["parameters"] == alone["memory_bytes"]["parameters"]
    main([*words[:-1], "devices=8"])
    said = capsys.readouterr().out
    assert "images of one update" in said and "memory of a device: 2 images" in said
    with pytest.raises(UserError, match=r"^data.batch_size=16: .* 3 processes; give 15 or 18"):
        main([*words, "devices=3"])


def test_table_names_the_parts(capsys):
    main(["experiment=quickstart", "debug=tiny"])
    said = capsys.readouterr().out
    for word in ("encoder", "decoder", "optimizer", "activations", "tokens per image", "bits per image", "total"):
        assert word in said


def test_a_continuous_tokenizer_and_groups_of_codes_are_planned_too(capsys):
    assert main(["experiment=tokenbridge", "debug=tiny"]) == 0
    assert "continuous" in capsys.readouterr().out
    assert main(["experiment=wetok_imagenet_f8", "debug=tiny", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["bits_per_image"] == plan["tokens_per_image"] * 12 and plan["codebook_size"] == [16] * 3
    assert codebook_words([16] * 3) == "3 x 16" and codebook_words([64, 8]) == "64 and 8"


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        main(["experiment=quikstart"])
    with pytest.raises(UserError, match="key=value"):
        main(["quickstart"])


def test_amounts_carry_the_unit_that_suits():
    given = {0: "0", 999: "999", 93_000: "93.0 k", 71_880_000: "71.9 M", 1.2e12: "1.20 T", 5e18: "5000 P"}
    assert {n: amount(n) for n in given} == given
    assert amount(50 * 2**20, base=1024) == "50.0 MiB" and amount(2.5 * 2**30, base=1024) == "2.50 GiB"


def test_a_width_that_disagrees_with_the_encoder_names_its_key():
    with pytest.raises(UserError, match=r"tokenizer\.quantizer\.dim=3.*need"):
        main(["debug=tiny", "tokenizer.quantizer.dim=3"])
