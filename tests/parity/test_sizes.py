"""Settings are the experiment's, sizes the weights'; where settings differ a row says so."""

from imtok.parity.sizes import sized

VQ = "imtok.tokenizers.quantizers.vq.VQ"


def test_sizes_are_the_weights_and_settings_the_experiments() -> None:
    own = {"_target_": VQ, "codebook_size": 16384, "code_dim": None, "revive_below": 0.0, "tiny": {"codebook_size": 8}}
    node, rows = sized(own, {"_target_": VQ, "codebook_size": 192, "unit_length": False})
    assert node == {"_target_": VQ, "codebook_size": 192, "code_dim": None, "revive_below": 0.0} and not rows


def test_a_setting_that_differs_is_a_row_that_fails_and_stays_the_experiments() -> None:
    own = {"encoder": {}, "quantizer": {"_target_": VQ, "unit_length": True, "usage_decay": 0.99}}
    found = {"_target_": VQ, "unit_length": False, "entropy_temperature": 0.01}
    node, rows = sized(own, {"quantizer": found})
    assert node["quantizer"] == own["quantizer"]
    assert [(row.output, row.ok) for row in rows] == [
        ("tokenizer.quantizer.unit_length", False),
        ("tokenizer.quantizer.entropy_temperature", False),
    ]
    assert rows[1].error == "None, by the weights 0.01"


def test_a_stated_reason_lets_the_weights_decide() -> None:
    key, found = "tokenizer.quantizer.unit_length", {"_target_": VQ, "unit_length": True}
    node, rows = sized({"quantizer": {"_target_": VQ}}, {"quantizer": found}, as_stored={key: "both are one"})
    assert node["quantizer"]["unit_length"] is True
    assert [(row.output, row.ok, row.tolerance) for row in rows] == [(key, True, "both are one")]


def test_another_class_is_a_row_that_fails() -> None:
    own, found = {"_target_": VQ}, {"_target_": "imtok.tokenizers.quantizers.ibq.IBQ", "codebook_size": 8}
    node, rows = sized(own, found)
    assert node == found and [row.output for row in rows] == ["tokenizer._target_"] and not rows[0].ok
