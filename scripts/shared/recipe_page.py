"""docs/recipes.md: the settings of every recipe, family by family, beside those of its reference."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .recipe_settings import Setting, settings_of

PREFACE = """# Recipes and their references

Every setting that an experiment trains with, as its YAML composes, the file of the published code that it comes from,
and whether it equals that. Written by `imtok recipes --write docs/recipes.md`; a test holds it against the YAML.
`imtok recipes NAME` prints one of them.

- **equal**: the value of the file named beside it, or what follows from it (epochs as updates, counted for
  ImageNet's 1,281,167 images; a weight of a sum as a weight of a mean).
- **deviates**: another value or another way, with the reason.
- **unpublished**: nothing public says it; the value is imtok's choice.

Of the networks only what trains them is here: that they compute what the published ones do is shown by `imtok parity`
on stored outputs. *Proven* means that stored outputs of the reference's own code are met: `forward` of a whole forward
pass, `objective` every loss term, its weight and gradients of one update, `optimizer` the parameters after two steps.

What holds for all of them, and is not repeated below:

- A random crop is cut before it is resized, which saves a quarter of the work and moves it by less than half a pixel.
- Many references call `train()` on their losses and so switch on the dropout (0.5) before the heads of LPIPS, whose
  copies are made for evaluation. Here there is none. On photographs with a random trunk it changes the value by 0.2 %
  and turns an image's gradient (cosine 0.84 to 0.92), at random: the mean over images and updates is the same.
- A discriminator does not run before its first update. Several references (LlamaGen and those that grew from it) step
  it from the start with a loss of zero, which moves nothing but Adam's counter, so that its first real steps are
  shorter (0.45 of lr with betas of 0.9 and 0.95), and the running means of LeCam and of its batch norm.
- The adaptive weight is the mean of the ratios of all processes; the references use each process's own.
"""


def written_page(configs: Mapping[str, Mapping[str, Any]], proven: Mapping[str, Sequence[str]]) -> str:
    """configs: composed, by the experiment's name. proven: what stored outputs show, by name."""
    families: dict[str, list[str]] = {}
    for name, config in configs.items():
        if (config.get("recipe") or {}).get("reference"):
            families.setdefault(str(config["recipe"]["family"]), []).append(name)
    lines = [PREFACE.rstrip("\n")]
    for family in sorted(families, key=str.lower):
        lines += ["", *section(family, {name: configs[name] for name in families[family]}, proven)]
    return "\n".join(lines) + "\n"


def section(
    family: str, members: Mapping[str, Mapping[str, Any]], proven: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    recipes = {name: config["recipe"] for name, config in members.items()}
    repositories = dict.fromkeys(recipe["reference"]["repository"] for recipe in recipes.values())
    yield f"## {family}"
    yield ""
    yield f"Reference: {', '.join(repositories)}."
    yield ""
    for name, recipe in recipes.items():
        missing = "complete" if recipe["complete"] else f"not complete: {recipe.get('missing', 'see below')}"
        yield f"- `{name}`: {missing}. Proven: {', '.join(proven.get(name, ())) or 'nothing'}."
    yield ""
    yield "| setting | value | from | |"
    yield "|---|---|---|---|"
    tables = {name: {s.key: s for s in settings_of(config)} for name, config in members.items()}
    for key in _keys(tables):
        cells = (f"`{key}`", *(_cell(key, tables, column) for column in ("value", "source", "verdict")))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _keys(tables: Mapping[str, Mapping[str, Setting]]) -> list[str]:
    """In the order of the first table that has them, others after the key that they follow in theirs."""
    keys: list[str] = []
    for table in tables.values():
        at = 0
        for key in table:
            if key not in keys:
                keys.insert(at, key)
            at = keys.index(key) + 1
    return keys


def _cell(key: str, tables: Mapping[str, Mapping[str, Setting]], column: str) -> str:
    """What all say, or every answer with the names of those that give it; those without the setting are left out."""
    answers: dict[str, list[str]] = {}
    for name, table in tables.items():
        if key in table:
            answers.setdefault(getattr(table[key], column), []).append(name)
    if len(answers) == 1 and (column != "value" or len(next(iter(answers.values()))) == len(tables)):
        return next(iter(answers))
    return "; ".join(f"{answer} ({', '.join(f'`{name}`' for name in names)})" for answer, names in answers.items())
