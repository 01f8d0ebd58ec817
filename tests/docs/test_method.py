"""docs/method.md: its sections are those that the code refers to, its facts those of the code."""

from __future__ import annotations

import re

import pytest

from clickprompt.modality.views import piece_text
from clickprompt.parameters import CTR_MODELS, check_parameters
from clickprompt.plm.families import FAMILIES
from clickprompt.readers import read_interactions
from tests.docs.pages import REPOSITORY, blocks, read
from tests.docs.test_readme import configuration

PAGE = "docs/method.md"
SECTIONS = (
    "Modality conversion",
    "CTR model",
    "Prompt generation",
    "Prompt fusion",
    "PA-MLM",
    "Finetuning with the PLM",
    "Finetuning without the PLM",
    "Comparison and metrics",
    "Sizes",
    "Published anchors",
)
REFERENCES = re.compile(
    r"(?:method sections?|sections?) ([\d, and]+?) of docs/method\.md"
    r"|method sections? ([\d, and]*\d)"
    r"|docs/method\.md, (?:sections? )?([\d, and]*\d)"
)


def sections() -> dict[int, str]:
    found = re.findall(r"^## (\d+)\. (.+)$", read(PAGE), flags=re.MULTILINE)
    return {int(number): title for number, title in found}


def references():
    files = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "conf").rglob("*.yml")]
    for path in files:
        text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))
        for groups in REFERENCES.findall(text):
            for number in re.findall(r"\d+", " ".join(groups)):
                yield path.relative_to(REPOSITORY), int(number)


def test_sections_are_numbered_as_the_code_knows_them():
    assert sections() == dict(enumerate(SECTIONS, 1))


def test_every_reference_of_the_code_leads_to_a_section():
    found = list(references())
    assert len(found) > 20
    assert [(path, number) for path, number in found if number not in sections()] == []


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("modality/views.py", {1}),
        ("ctr/base.py", {2}),
        ("prompts/generator.py", {3}),
        ("plm/attention.py", {4}),
        ("plm/head.py", {5, 6}),
        ("training/objectives.py", {5, 6, 7}),
        ("evaluation/metrics.py", {8}),
    ],
)
def test_references_mean_these_sections(file, wanted):
    found = {number for path, number in references() if path.as_posix().endswith(file)}
    assert found == wanted


def test_sentence_of_the_page_is_that_of_the_first_movie():
    data = check_parameters(configuration("base")["parameters"]).data
    folder = REPOSITORY / "data/01_raw/movielens_small"
    files = {name: folder / name for name in ("ratings.csv", "movies.csv")}
    row = read_interactions(files, data).interactions.iloc[0]
    pieces = [
        piece_text(row[field.column], field, data, first=number == 0)
        for number, field in enumerate(data.fields)
    ]
    assert blocks(PAGE, "text")[0].text == "".join(pieces)


def test_every_ctr_model_has_its_line():
    (table,) = re.findall(r"\| `ctr\.name` .*?\n\n", read(PAGE), flags=re.DOTALL)
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == set(CTR_MODELS)


def test_every_family_has_its_line():
    (table,) = re.findall(r"\| `model_type` .*?\n\n", read(PAGE), flags=re.DOTALL)
    _, *rows = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert rows == list(FAMILIES)


def test_the_guide_names_every_language_model_of_conf_with_its_source():
    (table,) = re.findall(r"\| `plm\.name` .*?\n\n", read("docs/user-guide.md"), flags=re.DOTALL)
    named = set(re.findall(r"`([\w./-]+)`", table)) - {"plm.name"}
    choices = configuration("base")["parameters"]["plm_choices"]
    hub = {choice["source"] for choice in choices.values() if "/" in choice["source"]}
    assert named == set(choices) | hub


def table_row(start: str) -> list[str]:
    line = next(line for line in read(PAGE).splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_settings_of_pretraining_are_those_of_conf():
    for column, environment in ((1, "base"), (2, "movielens_1m")):
        pretrain = check_parameters(configuration(environment)["parameters"]).pretrain
        assert int(table_row("epochs")[column]) == pretrain.epochs
        assert int(table_row("batch")[column]) == pretrain.batch_size
        assert float(table_row("learning rate PLM")[column]) == pretrain.learning_rate_plm
        assert float(table_row("learning rate CTR model")[column]) == pretrain.learning_rate_ctr
        assert float(table_row("learning rate generator")[column]) == pretrain.learning_rate_prompts
        assert table_row("softmax")[column] == f"`{pretrain.masking.vocabulary}`"
        name = {"coupled": "Adam", "decoupled": "AdamW"}[pretrain.decay]
        assert pretrain.weight_decay == pretrain.weight_decay_plm == 0
        assert table_row("optimiser")[column] == f"{name}, no weight decay"
        assert pretrain.schedule in table_row("schedule")[column]
        share = f"warm-up {pretrain.warmup:.0%}".replace("%", " %")
        assert (share in table_row("schedule")[column]) == (pretrain.warmup > 0)


def test_sizes_are_those_of_conf():
    for environment, size, layers in (
        ("base", 32, 3),
        ("movielens_100k", 32, 3),
        ("movielens_1m", 32, 6),
        ("bookcrossing", 32, 6),
        ("amazon_toys", 16, 3),
    ):
        ctr = check_parameters(configuration(environment)["parameters"]).ctr
        assert ctr.embedding_size == size
        assert (ctr.cross_layers, ctr.hidden_sizes) == (layers, (256,) * layers)
    sizes = table_row("DCNv2 (parallel, full matrix)")
    assert sizes[:3] == ["6 + 6×256", "6 + 6×256", "3 + 3×256"]


def test_shapes_of_the_generator():
    """What section 3 says of D, r, L, K and H."""
    from clickprompt.prompts import PromptGenerator

    generator = PromptGenerator(
        representation_size=7, layers=2, heads=3, head_size=4, count=5, bottleneck=6
    )
    width = 2 * 2 * 5 * 12
    shapes = [tuple(weight.shape) for weight in generator.parameters()]
    assert shapes == [(6, 7), (6,), (width, 6), (width,)]
