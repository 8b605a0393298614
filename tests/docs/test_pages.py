"""Pages name files, commands, experiments and targets that exist, in common words; versions stated twice agree."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import imtok

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = "docs/map.md"  # by `make map`, not tracked
PAGES = [p for p in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]) if p != ROOT / WRITTEN]
# Private metaphors, with the words of the field in their place.
WORDS = {
    "unwell": "unhealthy values",
    "robbed": "without",
    "by heart": "overfitting",
    "poured|pours": "encodes",
    "tells its": "matches",
    "steered": "conditioned on",
    "paints?|painted": "decodes",
    "spared": "exempt",
    "lent": "available",
}


def code(page: Path) -> list[str]:
    """Lines of code blocks, and inline code outside them."""
    blocks, text, inside = [], [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        else:
            (blocks if inside or line.startswith("    ") else text).append(line)
    return blocks + [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", "\n".join(text))]


@cache
def tracked() -> frozenset[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone, so there is no list of files")
    return frozenset(listed.stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target
    roots = {name.split("/")[0] for name in tracked()}
    for word in " ".join(code(page)).split():
        path = word.strip(",.;:()[]\"'")
        if path.split("/")[0] in roots and "NAME" not in path and path != WRITTEN:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_experiments_and_targets_exist(page: Path) -> None:
    lines = code(page)
    for line in lines:
        for command in re.findall(r"(?:^|\s)imtok ([a-z][a-z-]*)", line):
            assert (ROOT / "scripts" / f"{command.replace('-', '_')}.py").is_file(), line
        for experiment in re.findall(r"\bexperiment=([a-z][\w/]*)", line):
            own = "--config-dir" in line  # a folder of the reader's
            assert own or (ROOT / "configs" / "experiment" / f"{experiment}.yaml").is_file(), line
        for target in re.findall(r"^make ([a-z ]+)", line):
            for name in target.split():
                assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def test_pages_and_yaml_comments_use_words_of_the_field() -> None:
    texts = {page: page.read_text() for page in PAGES}
    for file in (ROOT / "configs").glob("**/*.yaml"):
        texts[file] = "\n".join(re.findall(r"#.*", file.read_text()))
    found = [
        f"{file.relative_to(ROOT)}: {hit[0]!r}; {plain}"
        for file, text in texts.items()
        for private, plain in WORDS.items()
        for hit in re.finditer(rf"\b({private})\b", text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_versions_stated_twice_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    offered = [c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert offered == workflow["newest"]["strategy"]["matrix"]["python"] and offered[0] == oldest
    assert workflow["oldest"]["steps"][1]["with"]["python-version"] == oldest
    assert f"({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == imtok.__version__
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={hooks['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
