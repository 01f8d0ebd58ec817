"""A study as a plain dict: means over seeds, paired tests, the long tail. It goes to JSON as it is.

Tables, figures and pages are made from it only. "Better" and "worse" are written only where a
test says so: the paired t-test over seeds, corrected by Holm for all comparisons of that metric
in the study; with a single seed the test on rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used: scipy.stats takes a second or two

from clickprompt.evaluation.long_tail import TrainFacts, long_tail_quadrants
from clickprompt.evaluation.metrics import Metric, auc, relative_improvement
from clickprompt.evaluation.significance import (
    bootstrap_log_loss_test,
    delong_test,
    holm,
    seed_test,
)
from clickprompt.files import value_digest
from clickprompt.parameters import StudyParameters
from clickprompt.studies.cells import Labels, counterpart
from clickprompt.studies.plan import PlannedCell
from clickprompt.studies.records import CellRecord, Records, TestRows

METRICS: tuple[Metric, Metric] = ("auc", "log_loss")
LEVEL = 0.05
ANY = "–"  # of an axis that changes nothing in this row
DRAWS = 1000  # of the bootstrap, for each seed of a comparison
BETTER, WORSE, UNKNOWN = "better", "worse", "not shown"

Summary = dict[str, Any]
Entry = dict[str, Any]


@dataclass(frozen=True)
class _Row:
    """One model of the study: a training a seed, and the combinations of labels it stands for."""

    combinations: list[Labels] = field(default_factory=list)
    cells: dict[int, PlannedCell] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        first = self.combinations[0]
        return {
            axis: value if all(c[axis] == value for c in self.combinations) else ANY
            for axis, value in first.items()
        }

    @property
    def records(self) -> dict[int, CellRecord]:
        """By seed."""
        return {seed: e.record for seed, e in sorted(self.cells.items()) if e.record is not None}

    @property
    def stages(self) -> set[str]:
        """Those that its trainings start from."""
        return {e.cell.begins_with for e in self.cells.values() if e.cell.begins_with is not None}


def summarise_study(
    name: str, study: StudyParameters, planned: Sequence[PlannedCell], records: Records
) -> Summary:
    """Sum a study up over its finished cells.

    Args:
        name: of the study.
        study: its declaration.
        planned: all of its cells.
        records: where predictions lie.

    Returns:
        A dict of plain values:

        - ``study``, ``question``, ``axes``, ``seeds``, ``date`` of the last cell, ``data_digests``,
          ``parameter_digest`` over all cells; ``cells``: how many there are, are finished, failed.
        - ``rows``: one a model: ``labels`` (:data:`ANY`: the axis has no effect on it), mean and
          sample deviation of each metric, relative improvement over its counterpart of the first
          ``compare_with`` by seed and as a mean, ``seconds`` of training, ``parameters`` in
          serving, of the PLM, scoring rate, devices, and its cells.
        - ``comparisons``: two rows and a metric: mean difference with its 95 % interval over seeds,
          p-values of the paired t-test and, on rows, of DeLong's test (AUC) or the bootstrap
          (LogLoss), both with Holm's correction, and the ``verdict``.
        - ``pooled``: the same comparison taken over the other axes, as that of an ablation over
          the CTR models.
        - ``long_tail``: metrics by row and quadrant, and the mean gain over the counterpart.
        - ``tail_contrasts``: is the gain larger in the tail than outside?
    """
    rows = _rows(planned)
    runs = records.runs(name)
    finished = [record for row in rows for record in row.records.values()]
    main = _pairs(rows, study.compare_with[0])
    pairs: list[tuple[int, int]] = []
    for place in study.compare_with:
        pairs += [p for p in _pairs(rows, place) if p not in pairs and p[::-1] not in pairs]
    entries = [entry for row in rows for entry in row.cells.values()]
    comparisons = _comparisons(rows, pairs, records)
    return {
        "study": name,
        "question": study.question,
        "axes": {axis: study.values_of(axis) for axis in study.axes},
        "compare_with": [
            {axis: str(value) for axis, value in place.items()} for place in study.compare_with
        ],
        "seeds": sorted({entry.cell.seed for entry in entries}),
        "date": max((record.ended for record in finished), default=None),
        "data_digests": sorted({record.data_digest for record in finished}),
        "parameter_digest": value_digest(sorted(str(entry.digest) for entry in entries)),
        "cells": {
            "all": len(entries),
            "finished": len(finished),
            "failed": sum(entry.failure is not None for entry in entries),
        },
        "failures": [
            {"cell": entry.cell.name, "error": entry.failure}
            for entry in entries
            if entry.failure is not None
        ],
        "rows": [_row(number, rows, main, runs) for number in range(len(rows))],
        "comparisons": comparisons,
        "pooled": _pooled(comparisons, rows),
        "long_tail": _long_tail(rows, main, records),
        "tail_contrasts": _tail_contrasts(rows, main, records),
    }


def _rows(planned: Sequence[PlannedCell]) -> list[_Row]:
    """Cells that are the same training but for the seed, in the order of the grid."""
    rows: dict[str, _Row] = {}
    for entry in planned:
        cell = entry.cell
        row = rows.setdefault(value_digest([cell.model, cell.data, cell.parameters]), _Row())
        row.cells.setdefault(cell.seed, entry)
        if dict(cell.labels) not in row.combinations:
            row.combinations.append(dict(cell.labels))
    return list(rows.values())


def _pairs(rows: Sequence[_Row], place: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Numbers of the rows to compare: each with its counterparts, by the labels of both."""
    by_labels = {
        tuple(labels.items()): number
        for number, row in enumerate(rows)
        for labels in row.combinations
    }
    pairs = []
    for number, row in enumerate(rows):
        for labels in row.combinations:
            other = by_labels.get(tuple(counterpart(labels, place).items()), number)
            if other != number and (number, other) not in pairs:
                pairs.append((number, other))
    return pairs


def _row(
    number: int,
    rows: Sequence[_Row],
    pairs: Sequence[tuple[int, int]],
    runs: Mapping[str, str],
) -> Entry:
    row = rows[number]
    found = list(row.records.values())
    entry: Entry = {"labels": row.labels, "seeds": list(row.records), "planned": len(row.cells)}
    others = [other for first, other in pairs if first == number]
    for metric in METRICS:
        values = [_metric(record, metric) for record in found]
        entry[metric] = statistics.fmean(values) if values else None
        entry[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        improvements = {}
        if len(others) == 1:  # several counterparts: none is the one
            other = rows[others[0]].records
            improvements = {
                str(seed): relative_improvement(
                    _metric(record, metric), _metric(other[seed], metric), metric
                )
                for seed, record in row.records.items()
                if seed in other
            }
        entry[f"{metric}_improvements"] = improvements
        entry[f"{metric}_improvement"] = (
            statistics.fmean(improvements.values()) if improvements else None
        )
    entry["seconds"] = statistics.fmean(r.seconds for r in found) if found else None
    rates = [r.scored_rows_per_second for r in found if r.scored_rows_per_second]
    entry["scored_rows_per_second"] = statistics.fmean(rates) if rates else None
    entry["parameters"] = sum(found[0].parameter_counts.values()) if found else None
    entry["plm_parameters"] = found[0].plm_parameters if found else None
    entry["ctr"] = found[0].ctr if found else None
    entry["plm"] = found[0].plm if found else None
    entry["trained_on"] = sorted({f"{r.device}, {r.precision}" for r in found})
    entry["cells"] = [
        {
            "seed": record.seed,
            "digest": record.digest,
            "run": runs.get(record.digest),
            "seconds": record.seconds,
            "device": record.device,
            "ended": record.ended,
            **{name: value for name, value in record.metrics.items()},
        }
        for record in found
    ]
    return entry


def _metric(record: CellRecord, metric: str) -> float:
    value = record.metrics.get(f"test_{metric}")
    return math.nan if value is None else value


def _comparisons(
    rows: Sequence[_Row], pairs: Sequence[tuple[int, int]], records: Records
) -> list[Entry]:
    """Each pair and metric, with the corrections over all pairs of that metric."""
    found: list[Entry] = []
    for first, second in pairs:
        seeds = sorted(rows[first].records.keys() & rows[second].records.keys())
        if not seeds:
            continue
        both = {"labels": rows[first].labels, "with": rows[second].labels, "seeds": seeds}
        row_tests = _row_tests(rows[first], rows[second], seeds, records)
        for metric in METRICS:
            values = [
                [_metric(row.records[seed], metric) for seed in seeds]
                for row in (rows[first], rows[second])
            ]
            test = seed_test(*values)
            low, high = _interval([a - b for a, b in zip(*values, strict=True)])
            found.append(
                {
                    **both,
                    "metric": metric,
                    "difference": test.difference,
                    "low": low,
                    "high": high,
                    "differences": [a - b for a, b in zip(*values, strict=True)],
                    "p_value": test.t_p_value,
                    "row_p_value": row_tests[metric],
                }
            )
    for metric in METRICS:
        own = [entry for entry in found if entry["metric"] == metric]
        for name in ("p_value", "row_p_value"):
            _correct(own, name)
        for entry in own:
            entry["verdict"], entry["basis"] = _verdict(entry)
    return found


def _pooled(comparisons: Sequence[Entry], rows: Sequence[_Row]) -> list[Entry]:
    """Comparisons of one model that differ in the same axes, over the values of the others.

    Each pair of trainings counts once; the t-test takes them as independent, with one mean. Where
    the means of the groups differ, that enlarges the deviation: the test is then careful. Pairs
    that start from one pretraining are not independent: they are left as they are.
    """
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in comparisons:
        labels, other = entry["labels"], entry["with"]
        differing = tuple((a, labels[a], other[a]) for a in labels if labels[a] != other[a])
        key = (entry["metric"], labels.get("model"), differing)
        found.setdefault(key, []).append(entry)
    pooled: list[Entry] = []
    for (metric, _, differing), group in found.items():
        if len(group) == 1 or _share_a_stage(group, rows):
            continue
        differences = [gap for entry in group for gap in entry["differences"]]
        test = seed_test(differences, [0.0] * len(differences))
        low, high = _interval(differences)
        names = {axis for axis, _, _ in differing}
        pooled.append(
            {
                "labels": {axis: value for axis, value, _ in differing},
                "with": {axis: value for axis, _, value in differing},
                "over": [
                    axis
                    for axis in group[0]["labels"]
                    if axis not in names and len({entry["labels"][axis] for entry in group}) > 1
                ],
                "metric": metric,
                "groups": len(group),
                "pairs": len(differences),
                "difference": test.difference,
                "low": low,
                "high": high,
                "p_value": test.t_p_value,
                "row_p_value_holm": None,
            }
        )
    for metric in METRICS:
        _correct([entry for entry in pooled if entry["metric"] == metric], "p_value")
    for entry in pooled:
        entry["verdict"], _ = _verdict(entry)
    return pooled


def _share_a_stage(group: Sequence[Entry], rows: Sequence[_Row]) -> bool:
    """Whether two of the comparisons are of trainings that start from the same stage."""
    seen: set[str] = set()
    for entry in group:
        sides = (entry["labels"], entry["with"])
        stages = {stage for row in rows if row.labels in sides for stage in row.stages}
        if stages & seen:
            return True
        seen |= stages
    return False


def _correct(entries: Sequence[Entry], name: str) -> None:
    """Holm's correction of those that have a p-value."""
    known = [entry for entry in entries if entry[name] is not None]
    for entry in entries:
        entry[f"{name}_holm"] = None
    for entry, corrected in zip(known, holm([e[name] for e in known]), strict=True):
        entry[f"{name}_holm"] = corrected


def _verdict(entry: Entry) -> tuple[str, str]:
    """What a comparison shows, and by which test."""
    basis = "seeds" if entry["p_value_holm"] is not None else "rows"
    p_value = entry["p_value_holm" if basis == "seeds" else "row_p_value_holm"]
    if p_value is None or p_value >= LEVEL:
        return UNKNOWN, basis
    up_is_better = entry["metric"] == "auc"
    return (BETTER if (entry["difference"] > 0) == up_is_better else WORSE), basis


def _row_tests(
    first: _Row, second: _Row, seeds: Sequence[int], records: Records
) -> dict[str, float | None]:
    """p-values of the tests on rows over all seeds together.

    The seeds share their rows, so their p-values depend on each other: twice their mean is a
    p-value whatever the dependence (Vovk and Wang 2020, Combining p-values via averaging).
    """
    tests: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for seed in seeds:
        a, b = first.records[seed], second.records[seed]
        rows = _shared_rows(a, b, records)
        if rows is None:
            return dict.fromkeys(METRICS)
        labels = rows.rows["label"].to_numpy()
        p_a, p_b = records.probabilities(a.digest), records.probabilities(b.digest)
        tests["auc"].append(delong_test(labels, p_a, p_b).p_value)
        drawn = bootstrap_log_loss_test(labels, p_a, p_b, samples=DRAWS, seed=seed)
        tests["log_loss"].append(drawn.p_value)
    if len(seeds) == 1:
        return {metric: values[0] for metric, values in tests.items()}
    return {metric: min(1.0, 2 * statistics.fmean(values)) for metric, values in tests.items()}


def _shared_rows(first: CellRecord, second: CellRecord, records: Records) -> TestRows | None:
    """The test rows that both predict; None: they were tested on other ones."""
    rows = records.test_rows(first.data_digest)
    if first.data_digest == second.data_digest:
        return rows
    other = records.test_rows(second.data_digest)
    same = rows.rows[["row", "label"]].equals(other.rows[["row", "label"]])
    return rows if same else None


def _interval(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean by Student's t; none with one seed."""
    if len(differences) < 2:
        return None, None
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(scipy.stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean - half, mean + half


def _frames(row: _Row, records: Records) -> Iterator[tuple[int, pd.DataFrame, TrainFacts]]:
    """Seed, predictions of the test rows, facts of the train split."""
    for seed, record in row.records.items():
        rows = records.test_rows(record.data_digest)
        frame = rows.rows.assign(probability=records.probabilities(record.digest))
        yield seed, frame, rows.facts


def _long_tail(
    rows: Sequence[_Row], pairs: Sequence[tuple[int, int]], records: Records
) -> list[Entry]:
    """Each row and quadrant: means over seeds, and the gain over the counterpart."""
    quadrants: list[dict[tuple[Any, Any], dict[int, Entry]]] = []
    for row in rows:
        found: dict[tuple[Any, Any], dict[int, Entry]] = {}
        for seed, frame, facts in _frames(row, records):
            for quadrant in long_tail_quadrants(frame, facts):
                found.setdefault((quadrant["user"], quadrant["item"]), {})[seed] = quadrant
        quadrants.append(found)
    counterparts = {first: second for first, second in reversed(pairs)}
    entries = []
    for number, row in enumerate(rows):
        for (user, item), by_seed in quadrants[number].items():
            entry: Entry = {"labels": row.labels, "user": user, "item": item}
            entry |= {"rows": next(iter(by_seed.values()))["rows"], "seeds": list(by_seed)}
            other = quadrants[counterparts[number]] if number in counterparts else {}
            for metric in METRICS:
                values = [q[metric] for q in by_seed.values() if q[metric] is not None]
                entry[metric] = statistics.fmean(values) if values else None
                entry[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
                gaps = [
                    by_seed[seed][metric] - base[metric]
                    for seed, base in other.get((user, item), {}).items()
                    if seed in by_seed and None not in (by_seed[seed][metric], base[metric])
                ]
                entry[f"{metric}_difference"] = statistics.fmean(gaps) if gaps else None
                low, high = _interval(gaps)
                entry[f"{metric}_low"], entry[f"{metric}_high"] = low, high
            entries.append(entry)
    return entries


def _tail_contrasts(
    rows: Sequence[_Row], pairs: Sequence[tuple[int, int]], records: Records
) -> list[Entry]:
    """Gain in AUC on rows whose user or item is tail, minus that on all other rows, over seeds."""
    entries: list[Entry] = []
    for first, second in pairs:
        gains: dict[str, list[float]] = {"tail": [], "rest": []}
        bases = {seed: frame for seed, frame, _ in _frames(rows[second], records)}
        counts = {}
        for seed, frame, facts in _frames(rows[first], records):
            tail = _tail(frame, facts)
            if seed not in bases or tail is None:
                continue
            for name, part in (("tail", tail), ("rest", ~tail)):
                labels = frame["label"].to_numpy()[part]
                counts[name] = len(labels)
                if 0 < labels.sum() < len(labels):
                    own, base = (
                        auc(labels, f["probability"].to_numpy()[part]) for f in (frame, bases[seed])
                    )
                    gains[name].append(own - base)
        pairs_of_gains = list(zip(gains["tail"], gains["rest"], strict=False))
        if len(gains["tail"]) != len(gains["rest"]) or not pairs_of_gains:
            continue
        differences = [tail - rest for tail, rest in pairs_of_gains]
        low, high = _interval(differences)
        entries.append(
            {
                "labels": rows[first].labels,
                "with": rows[second].labels,
                "seeds": len(differences),
                "tail_rows": counts["tail"],
                "tail_gain": statistics.fmean(gains["tail"]),
                "rest_gain": statistics.fmean(gains["rest"]),
                "difference": statistics.fmean(differences),
                "low": low,
                "high": high,
                "p_value": seed_test(gains["tail"], gains["rest"]).t_p_value,
            }
        )
    _correct(entries, "p_value")
    for entry in entries:
        shown = entry["p_value_holm"] is not None and entry["p_value_holm"] < LEVEL
        larger = "larger" if entry["difference"] > 0 else "smaller"
        entry["verdict"] = larger if shown else UNKNOWN
    return entries


def _tail(frame: pd.DataFrame, facts: TrainFacts) -> np.ndarray | None:
    """Rows (rows,) bool whose user or item is tail; None where the data name neither."""
    limits = {
        "user_train_rows": facts.user_tail_limit,
        "item_train_rows": facts.item_tail_limit,
    }
    parts = [frame[n].to_numpy() <= limit for n, limit in limits.items() if limit is not None]
    return np.logical_or.reduce(parts) if parts else None
