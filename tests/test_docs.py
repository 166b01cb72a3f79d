"""Pages lead somewhere: links between them, and every path of the tree that they name."""

import re
from pathlib import Path

import pytest

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [*sorted((ROOT / "benchmarks").glob("*.md")), ROOT / "benchmarks" / "gpu" / "README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FOLDERS = "rl|rollout|rewards|redraft|recipes|examples|tests|docs|benchmarks"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]*?(?:\.py|\.yaml|\.md|/))`")
MADE = {"benchmarks/gpu/carried/"}  # not kept in git
RESULT = re.compile(r"`(?:benchmarks/)?results/(\w+\.(?:json|md|png))`")


def key(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=key)
def test_links_lead_to_files(page):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=key)
def test_paths_that_a_page_names_are_there(page):
    text = page.read_text()
    missing = [name for name in NAMED.findall(text) if name not in MADE and not (ROOT / name).exists()]
    missing += [name for name in RESULT.findall(text) if not (ROOT / "benchmarks" / "results" / name).exists()]
    assert missing == []


def test_the_tour_passes_through_every_room():
    named = set(NAMED.findall((ROOT / "docs" / "tour.md").read_text()))
    rooms = {path.name for path in (ROOT / "rl").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name.split("/")[1] for name in named if name.startswith("rl/")} >= rooms
