"""The section of the results page on the studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from benchmarks.report_plm import Gain, gains
from clickprompt.studies.page import findings, origin_line
from clickprompt.studies.summary import ANY, BETTER, UNKNOWN, WORSE
from clickprompt.studies.tables import p_text, row_name, study_tables

Labels = Mapping[str, str]

WITH, WITHOUT = {"model": "clickprompt_with_plm"}, {"model": "clickprompt_without_plm"}


@dataclass(frozen=True)
class Expectation:
    """What the paper lets one expect of comparisons.

    Attributes:
        claim: in words.
        study: whose comparisons these are.
        labels: of the model that is compared.
        against: labels of the other.
        verdict: on AUC.
    """

    claim: str
    study: str
    labels: Labels
    against: Labels
    verdict: str = BETTER


EXPECTED = (
    Expectation(
        "with PLM above the backbone",
        "performance",
        {"model": "ClickPrompt with PLM"},
        {"model": "DCNv2"},
    ),
    Expectation(
        "without PLM above the backbone",
        "performance",
        {"model": "ClickPrompt without PLM"},
        {"model": "DCNv2"},
    ),
    Expectation("with PLM above the backbone", "compatibility", WITH, {"model": "backbone"}),
    Expectation("without PLM above the backbone", "compatibility", WITHOUT, {"model": "backbone"}),
    Expectation("with PLM is best, above without", "compatibility", WITH, WITHOUT),
    Expectation(
        "prompts in every layer above input-only",
        "prompt_strategy",
        {"prompts": "input-only"},
        {"prompts": "layer-wise"},
        WORSE,
    ),
    *(
        Expectation(f"{ablation} is worse", "knowledge_fusion", {"fusion": ablation}, {}, WORSE)
        for ablation in ("without prompts", "without pretraining", "without both")
    ),
)
SHOWN, OPPOSITE = "shown", "opposite"
TAIL_CLAIM = "gain larger in the tail"
TAIL_STUDIES = {"performance": "ClickPrompt", "long_tail": "clickprompt"}


def studies_section(
    results: Mapping[str, Mapping[str, Any]],
    popularity: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    per_minute: Mapping[str, Any] | None = None,
) -> str:
    """What each study shows, and its tables.

    Args:
        results: name of a study -> what `benchmarks.studies` wrote.
        popularity: what `benchmarks.study_popularity` wrote.
        settings: what `benchmarks.study_settings` wrote.
        per_minute: what `benchmarks.accuracy_per_minute` wrote.
    """
    parts = [
        "## The studies",
        "```sh\npython -m benchmarks.studies\n```",
        "Each is `kedro study NAME` on the embedded data. Settings were chosen on valid "
        '(`studies.settings`), test was looked at once. "Better" and "worse" are said only where '
        "the paired t-test over seeds, after Holm's correction, is below 0.05; with one seed the "
        "test on rows. Training times are of two cells at a time, with other work beside them: "
        "compare them roughly, some machines had no bf16. Times of a quiet machine stand in the "
        "tables of the baselines.",
        "### What the paper lets one expect",
        "The paper's findings on its data (AUC), and each comparison here that bears on it. p is "
        "that of the study's own table, after Holm's correction. The comparisons over all values "
        "of an axis were added when those of each value were known.",
        "\n".join(_expectations(results)),
    ]
    if popularity is not None:
        parts.append(_popularity(popularity))
    parts.append(_why(results, per_minute))
    if settings is not None:
        parts.append(_settings(settings))
    for name, result in results.items():
        summary = dict(result)
        parts.append(f"### {name}\n\n{summary['question']}")
        parts.append("\n".join(f"- {line}" for line in findings(summary)))
        for table in study_tables(summary).values():
            parts += [f"{table.title}:", table.markdown().rstrip()]
        parts.append(f"{origin_line(summary)} {summary['machine']}.")
    return "\n\n".join(parts)


def expectation_counts(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A short Markdown table: how many comparisons show what the paper lets one expect."""
    found: dict[str, list[str]] = {}
    for expected in _compared(results):
        found.setdefault(expected.claim, []).append(expected.found)
    lines = ["| expected | comparisons | shown | opposite |", "| --- | ---: | ---: | ---: |"]
    for claim, of_claim in found.items():
        shown, opposite = (of_claim.count(word) for word in (SHOWN, OPPOSITE))
        lines.append(f"| {claim} | {len(of_claim)} | {shown} | {opposite} |")
    return "\n".join(lines)


def _expectations(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A Markdown table: claim, comparison, pairs, difference, p and whether it is shown."""
    yield "| expected | study | here | pairs | AUC | p | |"
    yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    for one in _compared(results):
        yield (
            f"| {one.claim} | {one.study} | {one.here} | {one.pairs} | {one.difference:+.4f} "
            f"| {p_text(one.p_value)} | {one.found} |"
        )


@dataclass(frozen=True)
class _Compared:
    """A comparison that bears on a claim.

    Attributes:
        claim: in words.
        study: whose comparison it is.
        here: what is compared.
        pairs: of trainings; one a seed, of each value of an axis that it is taken over.
        difference: in AUC.
        p_value: corrected.
        found: in a word.
        entry: of the study's summary.
    """

    claim: str
    study: str
    here: str
    pairs: int
    difference: float
    p_value: float | None
    found: str
    entry: Mapping[str, Any]


def _compared(results: Mapping[str, Mapping[str, Any]]) -> Iterator[_Compared]:
    for expected in EXPECTED:
        result = results.get(expected.study, {})
        for entry in (*result.get("comparisons", ()), *result.get("pooled", ())):
            if entry["metric"] != "auc" or not (
                expected.labels.items() <= entry["labels"].items()
                and expected.against.items() <= entry["with"].items()
            ):
                continue
            here = f"{row_name(entry['labels'])} against {row_name(entry['with'])}"
            if "over" in entry:
                here += f", over all {' and '.join(entry['over'])}"
            on_rows = entry.get("basis") == "rows"
            yield _Compared(
                claim=expected.claim,
                study=expected.study,
                here=here,
                pairs=entry["pairs"] if "over" in entry else len(entry["seeds"]),
                difference=entry["difference"],
                p_value=entry["row_p_value_holm" if on_rows else "p_value_holm"],
                found={BETTER: OPPOSITE, WORSE: OPPOSITE, expected.verdict: SHOWN}.get(
                    entry["verdict"], UNKNOWN
                ),
                entry=entry,
            )
    for study, start in TAIL_STUDIES.items():
        for entry in results.get(study, {}).get("tail_contrasts", []):
            tested = entry["p_value_holm"] is not None  # one seed has no test
            if tested and entry["labels"]["model"].startswith(start):
                yield _Compared(
                    claim=TAIL_CLAIM,
                    study=study,
                    here=f"{row_name(entry['labels'])} against {row_name(entry['with'])}",
                    pairs=entry["seeds"],
                    difference=entry["difference"],
                    p_value=entry["p_value_holm"],
                    found={"larger": SHOWN, "smaller": OPPOSITE}.get(entry["verdict"], UNKNOWN),
                    entry=entry,
                )


def _why(
    results: Mapping[str, Mapping[str, Any]], per_minute: Mapping[str, Any] | None = None
) -> str:
    """Where the studies do not show what the paper lets one expect: what is known of the reason."""
    lines = [
        "### Where ours differ, and why",
        "- **With PLM is not above without PLM.** The text of these data says less than their IDs: "
        "PTab, which reads the text alone, is far below the backbone (table of the baselines). By "
        "items (table above; little of it is shown after the correction), with PLM is ahead of the "
        "backbone where an item has fewer than five train rows, as the paper says of the tail, and "
        "level with it where it has more; without PLM is ahead there too, most among the most "
        "frequent. The paper's language model has 12 layers and is pretrained for 20 "
        "epochs on many times the rows; this one has two layers, two epochs and 54,122 rows. "
        + _by_size(results),
    ]
    for one in _compared(results):
        if one.study == "performance" and one.found == UNKNOWN and "backbone" in one.claim:
            entry = one.entry
            above = sum(difference > 0 for difference in entry["differences"])
            lines.append(
                f"- **{one.here}:** above in {above} of {one.pairs} seeds, p "
                f"{p_text(entry['p_value'])} before the correction for all comparisons of the "
                "table. The backbone is the best of 15 settings, ClickPrompt the best of six; with "
                "six for each, on other machines, see the table of the baselines."
            )
    if per_minute is not None:
        lines.append(f"- **Size and length of the pretraining:** {_by_length(per_minute)}")
    lines.append(
        "- **AutoInt and DNN:** each has its own settings, with and without PLM (below): the best "
        "of six on valid with seed 0. The backbones have the best of 15."
    )
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def _by_size(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What the size of the PLM makes of the differences."""
    comparisons = results.get("compatibility", {}).get("comparisons", [])
    told = [
        f"AUC {name}: {'; '.join(listed)}."
        for name, own, other in (
            ("with PLM against without", WITH, WITHOUT),
            ("without PLM against the backbone", WITHOUT, {"model": "backbone"}),
        )
        if (listed := _sizes(comparisons, own, other))
    ]
    if not told:
        return "Which of these it is, is not known."
    return (
        f"By the size of the PLM, {' '.join(told)} Which of the rows and the epochs matters is not "
        "known."
    )


def _sizes(
    comparisons: Sequence[Mapping[str, Any]], own: Mapping[str, str], against: Mapping[str, str]
) -> list[str]:
    """Of each CTR model: mean difference in AUC by size, on the seeds that all of its sizes have.

    Args:
        comparisons: of the study compatibility.
        own: labels of what is compared, beside the CTR model and the PLM.
        against: of what it is compared with.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for entry in comparisons:
        labels, other = entry["labels"], entry["with"]
        # The counterpart has the same size, or reads no text.
        counterparts = [labels | against, labels | against | {"plm": ANY}]
        if entry["metric"] == "auc" and own.items() <= labels.items() and other in counterparts:
            layers = labels["plm"].removeprefix("minilm_")
            by_seed = dict(zip(entry["seeds"], entry["differences"], strict=True))
            found.setdefault(labels["ctr"], {})[layers] = by_seed
    listed = []
    for ctr, sizes in found.items():
        seeds = set.intersection(*(set(by_seed) for by_seed in sizes.values()))
        if len(sizes) > 1 and seeds:
            means = (
                f"{fmean(by_seed[seed] for seed in seeds):+.4f} with {layers} layers"
                for layers, by_seed in sizes.items()
            )
            count = f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
            listed.append(f"{ctr} {', '.join(means)} ({count})")
    return listed


def _by_length(per_minute: Mapping[str, Any]) -> str:
    """What more layers and more epochs of pretraining are worth without the PLM."""
    lines = per_minute["summary"]
    by_layers: dict[int, list[Gain]] = {}
    for gain in gains(lines):
        by_layers.setdefault(gain.layers, []).append(gain)
    listed = "; ".join(
        f"{layers} layers "
        + ", ".join(
            f"{gain.test_auc:+.4f} after {gain.epochs} {'epoch' if gain.epochs == 1 else 'epochs'}"
            for gain in of_size
        )
        for layers, of_size in by_layers.items()
    )
    pairs = (pair for of_size in by_layers.values() for pair in pairwise(of_size))
    grows = all(longer.test_auc > shorter.test_auc for shorter, longer in pairs)
    seeds = max(line["seeds"] for line in lines)
    return (
        f"DCNv2's gain in test AUC without PLM, {seeds} {'seed' if seeds == 1 else 'seeds'}, mean "
        f"over the numbers of prompts: {listed}. "
        + ("It grows with the epochs at every size. " if grows else "")
        + "The paper pretrains for 20. See "
        "[What pretraining time buys](#what-pretraining-time-buys)."
    )


def _settings(result: Mapping[str, Any]) -> str:
    """What was tried of ClickPrompt with other CTR models than DCNv2."""
    trials = result["trials"]
    ctr_models = list(dict.fromkeys(trial["ctr"] for trial in trials))
    models = " ".join(dict.fromkeys(trial["model"] for trial in trials))
    found: dict[str, dict[str, float]] = {}
    for trial in trials:
        changes = {key: value for key, value in trial["changes"].items() if key != "ctr.name"}
        setting = ", ".join(f"`{key}` {value:g}" for key, value in changes.items())
        found.setdefault(setting, {})[trial["ctr"]] = trial["metrics"]["valid_auc"]
    lines = [
        f"| setting | {' | '.join(ctr_models)} |",
        f"| --- |{' ---: |' * len(ctr_models)}",
        *(
            f"| {setting} | {' | '.join(f'{of_ctr[ctr]:.4f}' for ctr in ctr_models)} |"
            for setting, of_ctr in found.items()
        ),
    ]
    return "\n\n".join(
        [
            "### Settings of ClickPrompt with the other CTR models",
            f"```sh\npython -m benchmarks.study_settings --models {models}\n```",
            "The settings that were tried with DCNv2, with the others: valid AUC of seed 0. The "
            "best of each is in `studies.settings`.",
            "\n".join(lines),
            f"{result['date']}, {result['machine']}.",
        ]
    )


def _popularity(result: Mapping[str, Any]) -> str:
    """Where the gain is: AUC in groups of items."""
    models = list(result["groups"][0]["auc"])
    pairs = list(dict.fromkeys((test["model"], test["against"]) for test in result["tests"]))
    lines = [
        f"| item's train rows | test rows | {' | '.join(models)} "
        f"| {' | '.join(f'{model} - {against} (p)' for model, against in pairs)} |",
        f"| --- | ---: |{' ---: |' * (len(models) + len(pairs))}",
    ]
    for group in result["groups"]:
        first, end = group["at_least"], group["below"]
        name = f"{first} and more" if end is None else str(first)
        name = name if end in (None, first + 1) else f"{first} to {end - 1}"
        texts = [name, f"{group['rows']:,}", *(f"{group['auc'][model]:.4f}" for model in models)]
        for pair in pairs:
            (test,) = (
                test
                for test in result["tests"]
                if (test["model"], test["against"]) == pair and test["at_least"] == first
            )
            texts.append(f"{test['difference']:+.4f} ({p_text(test['p_value_holm'])})")
        lines.append(f"| {' | '.join(texts)} |")
    return "\n\n".join(
        [
            "### Where the gain is",
            "```sh\npython -m benchmarks.study_popularity\n```",
            "Test AUC of the study performance's models (DCNv2) by how often the row's item is in "
            f"train, means of {len(result['seeds'])} seeds; paired t over the seeds, Holm over the "
            "table. The groups were set after the study was seen: they explain, and prove nothing.",
            "\n".join(lines),
        ]
    )
