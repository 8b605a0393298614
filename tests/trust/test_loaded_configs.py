"""A folder from a stranger: no class, file, address or foreign argument of its choice, and every failure one line."""

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import imtok
from imtok.common.build import PARTS, build
from imtok.common.errors import UserError
from imtok.common.loaded_config import OPEN_MAPPINGS, restricted
from imtok.eval.probes.alignment import HOME, load_alignment, save_alignment
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses
from imtok.scripts.quantize import make_discrete
from imtok.tokenizers.hub import save_pretrained

ROOT = Path(imtok.__file__).parent
TIMM = {
    "_target_": "imtok.tokenizers.encoders.timm_grid.TimmGridEncoder",
    "dim": 8,
    "model_args": {"channels": [8, 8, 8, 8], "stem_width": 8},
}
TEACHER = {
    "_target_": "imtok.losses.teachers.timm_teacher.TimmTeacher",
    "model": "resnet10t",
    "weights": "random",
    "image_size": 32,
    "model_args": TIMM["model_args"],
}
TINY_TOWER = {"width": 8, "layers": 1, "heads": 2, "dim": 6, "max_tokens": 16}


def part_classes() -> Iterator[type[nn.Module]]:
    """Every class that passes the check of names in a tokenizer's config or in alignment/config.json."""
    for top in ("tokenizers", "decoders", "losses"):
        for file in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(("imtok", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
            for cls in vars(importlib.import_module(name)).values():
                if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == name:
                    yield cls


CLASSES = list(part_classes())


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def something_for(hint: Any, parameter: inspect.Parameter) -> Any:
    """A value for an argument that has to be given."""
    text = str(hint)
    for word, value in (("Mapping", {}), ("Sequence", [8]), ("float", 1.0), ("int", 8), ("bool", False)):
        if word in text:
            return value
    return "canary"


@pytest.mark.parametrize("cls", CLASSES, ids=path_of)
def test_no_text_or_mapping_of_any_part_reaches_out(cls, canary) -> None:
    try:
        hints = get_type_hints(cls.__init__)
    except NameError:
        hints = {}
    parameters = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"}
    needed = {
        n: something_for(hints.get(n), p)
        for n, p in parameters.items()
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    if getattr(cls, "published_weights", False):
        needed["weights"] = "random"  # `pretrained` is a word of timm's or open_clip's own list, tested below
    evil = {"pretrained_cfg": {"url": canary.url}, "cache_dir": str(canary.folder), "checkpoint_path": str(canary.file)}
    program = {"_target_": "subprocess.Popen", "args": ["touch", str(canary.program_ran)]}
    for name in parameters:
        text = str(hints.get(name, ""))
        if name in needed or "str" in text or "Mapping" in text or "Any" in text or "Module" in text:
            values: list[Any] = canary.sources if "str" in text else []
            for value in [*values, evil, program, {"x": program}]:
                node = {"_target_": path_of(cls), **needed, name: value}
                # No content: sizes are all defaults. The parts that read files are built for real below.
                with torch.device("meta"), suppress(UserError):
                    build(node, key="x", trusted=(*PARTS, *HOME))
                assert not canary.reached and not canary.program_ran.exists(), f"{name}={value}"


VIT = {"image_size": 32, "patch_size": 16, "width": 32, "depth": 1, "num_heads": 2}
MASKGIT = {"codebook_size": 8, "code_dim": 8, "channels": 32, "channel_multipliers": [1, 1, 1, 1, 1]}
READS_WEIGHTS: dict[str, dict[str, Any]] = {  # what may name weights, in settings that can be built
    "imtok.tokenizers.conditioners.clip_text.CLIPText": {},
    "imtok.tokenizers.encoders.timm_grid.TimmGridEncoder": {"model_args": TIMM["model_args"]},
    "imtok.tokenizers.encoders.vit_queries.QueryViTEncoder": {**VIT, "latent_side": 2},
    "imtok.tokenizers.spaces.vae.VAESpace": {"base_channels": 32, "channel_multipliers": [1], "blocks_per_level": 1},
    "imtok.tokenizers.towers.qwen2_vl.Qwen2VLTower": {"width": 16, "inner_width": 32, "depth": 1, "num_heads": 2},
    "imtok.tokenizers.towers.vit.ViTTower": VIT,
    "imtok.tokenizers.towers.vitamin.ViTaminTower": {
        **{k: v for k, v in VIT.items() if k != "patch_size"},
        "conv_widths": [8, 16],
        "conv_depths": [1, 1],
    },
    "imtok.decoders.heads.tower_tail.TowerTailHead": {"dim": {"semantic": 8}, "width": 16, "num_heads": 2},
    "imtok.decoders.proxy_codes.ProxyCodeDecoder": {**VIT, **MASKGIT, "blocks_per_level": 1, "num_tokens": 4},
    "imtok.decoders.vit_queries.QueryViTDecoder": VIT,
    "imtok.losses.teachers.open_clip_teacher.OpenClipTeacher": {"model": "ViT-S-32-alt"},
    "imtok.losses.teachers.timm_teacher.TimmTeacher": {k: v for k, v in TEACHER.items() if k != "_target_"},
    "imtok.losses.teachers.text_tower.TextTower": TINY_TOWER,
}


@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_parts_that_start_from_weights_do_not_when_loaded(name: str, canary) -> None:
    cls = next(c for c in CLASSES if path_of(c) == name)
    node, argument = {"_target_": name, **READS_WEIGHTS[name]}, "pretrained"
    if "weights" in inspect.signature(cls.__init__).parameters:
        node, argument = node | {"weights": "random"}, "weights"
    build(node, key="x", trusted=(*PARTS, *HOME))  # these settings work, so a refusal below is about the source
    takes = str(get_type_hints(cls.__init__)[argument])
    for source in (*canary.sources, *([True] if "bool" in takes else [])):
        if argument == "pretrained" or "None" in takes:
            made = build(node | {argument: source}, key="x", trusted=(*PARTS, *HOME))
            assert getattr(made, "weights", None) is None
        else:
            with pytest.raises(UserError, match=r"x\.weights=.*pretrained or random"):
                build(node | {argument: source}, key="x", trusted=(*PARTS, *HOME))
    if "model" in node:
        for source in canary.sources:
            with pytest.raises(UserError):
                build(node | {"model": source}, key="x", trusted=(*PARTS, *HOME))
    assert not canary.reached


def test_every_part_that_names_weights_is_known_here() -> None:
    for cls in CLASSES:
        parameters = inspect.signature(cls.__init__).parameters
        if "pretrained" in parameters or getattr(cls, "published_weights", False):
            assert path_of(cls) in READS_WEIGHTS or inspect.isabstract(cls), cls
        elif "weights" in parameters and "str" in str(get_type_hints(cls.__init__)["weights"]).split("[")[0]:
            assert restricted(cls, {}, key="x")["weights"] == "random", cls
            assert restricted(cls, {"weights": "/a/file"}, key="x")["weights"] == "random", cls


def test_open_mappings_are_those_that_have_a_list() -> None:
    """A new argument that is handed on to another library needs a list of names in loaded_config.py."""
    schedules = {("SemanticInfoNCE", "scale"), ("Adversary", "weight"), ("Adversary", "discriminator_weight")}
    ours = schedules | {("Adversary", "optimizer")}  # read by imtok alone
    for cls in CLASSES:
        if getattr(cls, "builds_own_parts", False):
            continue
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            text = str(parameter.annotation).replace("typing.", "")
            if "Mapping[str, Any]" in text or ("Mapping" in text and "[" not in text.partition("Mapping")[2][:1]):
                assert name in OPEN_MAPPINGS or (cls.__name__, name) in ours, (cls, name)


# -- whole folders ----------------------------------------------------------------------------------------------------


def edited(file: Path, **changes: Any) -> None:
    config = json.loads(file.read_text())
    for key, value in changes.items():
        node = config
        *path, last = key.split("__")
        for name in path:
            node = node[name]
        node[last] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def timm_folder(tokenizer_node, tmp_path) -> Path:
    tokenizer = build(tokenizer_node | {"encoder": TIMM, "quantizer": kl()}, key="tokenizer")
    return save_pretrained(tokenizer, tmp_path / "tokenizer")


def kl() -> dict[str, Any]:
    return {"_target_": "imtok.tokenizers.quantizers.kl.KL"}


def test_an_honest_folder_with_a_timm_network_loads(timm_folder, canary) -> None:
    loaded = imtok.from_pretrained(timm_folder)
    again = imtok.from_pretrained(save_pretrained(loaded, timm_folder.parent / "again"))
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(loaded.reconstruct(images), again.reconstruct(images))
    assert not canary.reached


def test_a_folder_cannot_have_a_file_fetched(timm_folder, canary, tmp_path) -> None:
    """`*.pth` in a site-packages is run at the next start of Python, so a download into a chosen folder is enough."""
    place = tmp_path / "site-packages"
    file = timm_folder / "config.json"
    arguments = {"cache_dir": str(place), "pretrained_cfg": {"url": canary.url}}
    for key, value in [*arguments.items(), ("pretrained_cfg_overlay", {"url": canary.url}), ("pretrained", True)]:
        edited(file, tokenizer__encoder__pretrained=True, tokenizer__encoder__model_args={key: value})
        with pytest.raises(UserError, match=rf"encoder\.model_args\.{key}"):
            imtok.from_pretrained(timm_folder)
    edited(file, tokenizer__encoder__model_args=TIMM["model_args"])  # and the weights beside it count, not timm's
    imtok.from_pretrained(timm_folder)
    assert not canary.reached and not place.exists()


def test_quantize_trusts_the_loaded_config_no_more_than_loading_did(timm_folder, canary) -> None:
    edited(timm_folder / "config.json", tokenizer__encoder__pretrained=str(canary.file))
    assert make_discrete(imtok.from_pretrained(timm_folder), bits=2).num_tokens
    assert not canary.reached


HOSTILE: list[tuple[str, Any]] = [
    ("image_size", [0]),
    ("image_size", []),
    ("image_size", "32"),
    ("encoder", {"_target_": "imtok.tokenizers.conditioners.clip_text.CLIPText"}),
    ("space", {"_target_": "imtok.tokenizers.conditioners.clip_text.CLIPText"}),
    ("encoder", {"_target_": "imtok.tokenizers." + "." * 5000}),
    ("encoder", {"_target_": 3}),
    ("encoder", {"_target_": "imtok.tokenizers.\0.X"}),
    ("encoder", {**TIMM, "model_args": {"norm_layer": "nothing"}}),
    ("encoder", {**TIMM, "model_args": {"channels": {}}}),
    ("encoder", {**TIMM, "model_args": {"channels": [{"_target_": "os.system"}]}}),
    ("encoder", {**TIMM, "model_args": {"channels": 3}}),
    ("encoder", {**TIMM, "model": "resnet10t.../x"}),
    ("heads", {"x": 3}),
    ("heads", [1]),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_hostile_values_are_one_line(timm_folder, key: str, value: Any, canary) -> None:
    edited(timm_folder / "config.json", **{f"tokenizer__{key}": value})
    with pytest.raises(UserError) as caught:
        imtok.from_pretrained(timm_folder)
    assert len(str(caught.value)) < 1000 and not canary.reached


@pytest.mark.parametrize("depth", [100, 900])
def test_depth_is_one_line(timm_folder, depth: int) -> None:
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"a": deep}
    edited(timm_folder / "config.json", tokenizer__encoder__model_args=deep)
    with pytest.raises(UserError):
        imtok.from_pretrained(timm_folder)


def test_a_conditioner_names_published_weights_or_says_so(tokenizer_node, canary) -> None:
    node = {"_target_": "imtok.tokenizers.conditioners.clip_text.CLIPText", "weights": str(canary.file)}
    conditioner = build(node, key="x", trusted=False)
    with pytest.raises(UserError, match=r"conditioner\.weights: the loaded config names a file"):
        conditioner(["a word"])
    assert build(node | {"weights": "pretrained"}, key="x", trusted=False).weights == "pretrained"
    assert build(node, key="x").weights == str(canary.file), "a config of one's own names files"
    assert not canary.reached


# -- alignment/ beside a tokenizer ------------------------------------------------------------------------------------


@pytest.fixture
def aligned(tokenizer_node, tmp_path) -> tuple[Path, nn.Module]:
    tower = {"_target_": "imtok.losses.teachers.text_tower.TextTower", **TINY_TOWER}
    cosine = {"_target_": "imtok.losses.semantic.cosine.SemanticCosine", "teacher": "small", "reads": "codes.main"}
    loss = {
        "clip": {"term": {"_target_": "imtok.losses.semantic.contrastive.ClipInfoNCE", "tower": tower}},
        "cosine": {"term": cosine | {"projector": "linear"}},
    }
    tokenizer = build(tokenizer_node, key="tokenizer")
    config = {"tokenizer": tokenizer_node, "loss": loss, "teacher": {"small": TEACHER}}
    losses = WeightedLosses.from_config(loss, tokenizer, NamedTeachers(config["teacher"]))
    save_pretrained(tokenizer, tmp_path)
    save_alignment(losses, config, tmp_path)
    return tmp_path, imtok.from_pretrained(tmp_path)


def test_a_teacher_beside_an_export_fetches_nothing_of_the_configs_choice(aligned, canary) -> None:
    folder, tokenizer = aligned
    file = folder / "alignment" / "config.json"
    assert set(load_alignment(folder, tokenizer).terms) == {"clip", "cosine"}
    evil = {"cache_dir": str(canary.folder / "new"), "pretrained_cfg": {"url": canary.url}}
    changes: list[Mapping[str, Any]] = [{"weights": "pretrained", "model_args": evil}]
    changes += [{"weights": source} for source in canary.sources]
    for change in changes:
        edited(file, teachers__small={**TEACHER, **change})
        found = load_alignment(folder, tokenizer)
        assert "clip" in found.terms and "a loaded config" in found.missing["cosine"]
    assert not canary.reached and not (canary.folder / "new").exists()


def test_a_text_tower_is_filled_from_the_file_beside_it_only(aligned, canary) -> None:
    folder, tokenizer = aligned
    file = folder / "alignment" / "config.json"
    for source in canary.sources:
        edited(file, terms__clip__tower__weights=source)
        assert "clip" in load_alignment(folder, tokenizer).terms
        edited(file, terms__clip__tower__weights="random", terms__clip__tower__model=source)
        assert "clip" in load_alignment(folder, tokenizer).missing
        edited(file, terms__clip__tower__model=None)
    assert not canary.reached


@pytest.mark.parametrize("place", ["terms__clip", "terms__clip__tower", "teachers__small"])
def test_a_class_that_trusts_its_own_parts_is_not_built(aligned, canary, place: str) -> None:
    folder, tokenizer = aligned
    program = {"_target_": "subprocess.Popen", "args": ["touch", str(canary.program_ran)]}
    node = {"_target_": "imtok.losses.adversarial.adversary.Adversary", "discriminator": program}
    edited(folder / "alignment" / "config.json", **{place: node})
    missing = load_alignment(folder, tokenizer).missing
    assert "may only name" in missing["cosine" if "small" in place else "clip"]
    assert not canary.reached and not canary.program_ran.exists()


@pytest.mark.parametrize("facts", [[], {"terms": 1}, {"terms": {}, "teachers": 1, "random_weights": []}])
def test_a_hostile_alignment_is_one_line(aligned, facts: Any) -> None:
    folder, tokenizer = aligned
    (folder / "alignment" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError):
        load_alignment(folder, tokenizer)
