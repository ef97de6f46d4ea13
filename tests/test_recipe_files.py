"""Recipes by name: what is found where, that files come first, and near matches."""

import tomllib
from pathlib import Path

import pytest

from speechllm import recipe_files
from speechllm.errors import UserError
from speechllm.recipe_files import find_recipe, recipes, resolve_recipes, summary

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A folder of three recipes, one of them under an older path as well, as an installed package holds them."""
    folder = tmp_path / "package" / "recipes"
    (folder / "connect").mkdir(parents=True)
    for name in ("quick", "connect/whisper_conv_llama", "connect/seamless_cif_llama", "whisper_conv_llama"):
        (folder / f"{name}.yaml").write_text(f"# What {name} is.\nmodel: {{}}\n")
    monkeypatch.setattr(recipe_files, "_PACKAGED", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_the_repository_is_where_an_editable_installation_looks():
    assert find_recipe("quickstart") == ROOT / "recipes" / "quickstart.yaml"


def test_a_recipe_under_two_paths_is_listed_once(packaged):
    assert list(recipes()) == ["connect/seamless_cif_llama", "connect/whisper_conv_llama", "quick"]


def test_with_and_without_its_folder(packaged):
    expected = packaged / "connect" / "seamless_cif_llama.yaml"
    assert find_recipe("seamless_cif_llama") == find_recipe("connect/seamless_cif_llama") == expected
    assert find_recipe("whisper_conv_llama") == packaged / "connect" / "whisper_conv_llama.yaml"


def test_unknown_names_get_the_near_match(packaged):
    with pytest.raises(UserError, match=r"no packaged recipe .* Did you mean 'seamless_cif_llama'\?"):
        find_recipe("seamless_cif_lama")
    with pytest.raises(UserError, match=r"Did you mean 'connect/seamless_cif_llama'\?"):
        find_recipe("connct/seamless_cif_llama")


def test_arguments(packaged):
    quick = str(packaged / "quick.yaml")
    assert resolve_recipes(["--config", "quick", "--data.root", "quick"]) == ["--config", quick, "--data.root", "quick"]
    assert resolve_recipes(["--config=quick", "-c", "quick"]) == [f"--config={quick}", "-c", quick]


def test_files_and_texts_stay_as_they_are(packaged):
    """A file named like a recipe is the user's own; a missing .yaml is for the parser to name."""
    Path("quick").write_text("model: {}\n")
    for value in ("quick", "absent.yaml", "{trainer: {max_steps: 1}}", "https://host/quick"):
        assert resolve_recipes(["--config", value]) == ["--config", value]
    assert resolve_recipes(["--config"]) == ["--config"]


def test_summary_is_the_first_line(packaged):
    assert summary(packaged / "quick.yaml") == "What quick is."


def test_the_wheel_holds_the_recipes_where_an_installation_looks():
    """Without them `--config NAME` would work in a clone alone."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    packaged = recipe_files._PACKAGED.relative_to(ROOT).as_posix()
    assert wheel["force-include"] == {"recipes": packaged}
