"""`report.html`: one file, well formed, nothing fetched, whatever of a run there is."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from raycondense.artifact.load import load
from raycondense.config import EvaluationConfig
from raycondense.errors import DataError, RunError
from raycondense.evaluation.columns import DIAGNOSTICS
from raycondense.evaluation.result import Evaluation, Row
from raycondense.report.html import UNTRAINED, write_report
from raycondense.report.images import MOST_SIDE, class_sheets
from raycondense.report.scores import MEASURES

VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """A page's tags, attributes and visible text; fails where tags are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        """Label of the table → lines → cells."""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and dict(attrs).get("role") == "region":
            self.tables[dict(attrs)["aria-label"] or ""] = []
        elif tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data

    @property
    def lines(self) -> list[list[str]]:
        """Of the newest table."""
        return list(self.tables.values())[-1]

    def addresses(self) -> list[str]:
        return [v or "" for _, attributes in self.tags for k, v in attributes.items() if k in ("src", "srcset", "href")]

    def alts(self, kind: str) -> list[str]:
        return [a["alt"] or "" for tag, a in self.tags if tag == "img" and (a["alt"] or "").startswith(kind)]


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy of the run that a test may change, with a log."""
    folder = tmp_path / "my <run>"
    shutil.copytree(tiny_run.folder, folder)
    records = [{"stage": "condense", "images": i, "total": 99, "loss/match": 1 / (1 + i)} for i in range(5)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def row(method: str, ipc: int, accuracy: float, architecture: str = "convnet", **values: Any) -> Row:
    known: dict[str, Any] = {"std": 0.012, "students": 5, "images": 3 * ipc, "bytes": 1000, "steps": 9, "seconds": 1.0}
    return Row(method=method, architecture=architecture, ipc=ipc, accuracy=accuracy, **{**known, **values})


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        rows=(row("raycondense", 2, 0.671), row("whole", 0, 0.848), row("raycondense", 2, 0.9, "vit")),
        config=EvaluationConfig(architectures=("convnet", "vit")),
        artifact="x",
        test={"source": "tiny", "split": "test", "sha256": "ab", "images": 24, "resolution": 8, "reads": 10},
    )


def test_a_whole_run_is_one_page_that_fetches_nothing(run, evaluation) -> None:
    path = write_report(run, evaluation=evaluation)
    assert path == run / "report.html"
    page = Page(path)
    assert page.addresses()
    assert all(address.startswith("data:image/") for address in page.addresses())
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    policies = [a["content"] or "" for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policies[0].startswith("default-src 'none'")
    assert ("html", {"lang": "en"}) in page.tags
    assert "width=device-width" in page.source
    assert "prefers-color-scheme: dark" in page.source
    for text in (
        "Accuracy",
        "Images",
        "Losses",
        "Recipe",
        "67.1 ± 1.2",
        "Nearest training images",
        "Feature space",
        "condensation",
        "24 images",
        "tiny",
    ):
        assert text in page.text
    figures = [*page.alts("Accuracy of"), *page.alts("Loss match"), *page.alts("3 classes"), *page.alts("Class ")]
    assert len(figures) == 2 + 1 + 1 + 3
    sources = [a for tag, a in page.tags if tag == "source"]
    assert len(sources) == len(figures)
    assert all(a["media"] == "(prefers-color-scheme: dark)" for a in sources)


def test_real_images_stand_beside_generated_ones(run) -> None:
    page = Page(write_report(run))
    assert len(page.alts("real image")) == 3 * 2
    assert len(page.alts("generated image 1 ")) == len(page.alts("generated image 2 ")) == 3
    pngs = [a for a in page.addresses() if a.startswith("data:image/png")]
    assert Image.open(io.BytesIO(base64.b64decode(pngs[0].partition(",")[2]))).size == (8, 8)
    assert all(a["alt"] for tag, a in page.tags if tag == "img")


def test_names_are_text_and_not_markup(run) -> None:
    page = Page(write_report(run))
    assert "<b>dark</b>" in page.text
    assert "my <run>" in page.text
    assert not any(tag in ("b", "run") for tag, _ in page.tags)


def test_scores_of_the_artefact_are_shown(run, evaluation) -> None:
    assert "Not evaluated yet" in Page(write_report(run)).text
    (run / "artifact" / "scores.json").write_text(evaluation.to_json())
    page = Page(write_report(run))
    assert "Not evaluated yet" not in page.text
    assert "whole set" in page.text


def test_an_artefact_alone_needs_neither_log_nor_training_images(run, tmp_path) -> None:
    artifact = tmp_path / "published"
    shutil.copytree(run / "artifact", artifact)
    page = Page(write_report(artifact, out=tmp_path / "pages" / "r.html"))
    assert "Nearest training images" not in page.text
    assert "Feature space" not in page.text
    assert (tmp_path / "pages" / "r.html").is_file()
    assert not (artifact / "report.html").exists()
    assert "No losses were logged" in page.text
    assert "no real images" in page.text
    assert not page.alts("real")
    assert page.alts("generated")


def test_training_images_can_be_named(run, tiny_run, tmp_path) -> None:
    (run / "run.json").unlink()
    assert not Page(write_report(run)).alts("real")
    assert Page(write_report(run, train_data=tiny_run.train)).alts("real")
    with pytest.raises(DataError, match=r"absent\.beton"):
        write_report(run, train_data=tmp_path / "absent.beton")


def test_a_run_that_is_not_finished_shows_its_losses(run) -> None:
    shutil.rmtree(run / "artifact")
    page = Page(write_report(run))
    assert "not finished: condensation, 4 of 99 images seen" in page.text
    assert page.alts("Loss match")


def test_a_folder_of_something_else_is_an_error(tmp_path) -> None:
    with pytest.raises(RunError, match=r"log\.jsonl"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_gives_the_same_bytes(run, evaluation) -> None:
    first = write_report(run, evaluation=evaluation).read_bytes()
    assert write_report(run, evaluation=evaluation).read_bytes() == first


def test_many_classes_are_sampled_evenly_and_large_images_are_made_small(tiny_run) -> None:
    artifact = load(tiny_run.artifact)
    sheets = class_sheets(artifact, tiny_run.train, classes=2, images=1)
    assert [sheet.name for sheet in sheets] == [artifact.classes[0], artifact.classes[2]]
    assert [len(sheet.real) for sheet in sheets] == [len(sheet.generated) for sheet in sheets] == [1, 1]

    class Large:
        num_classes, ipcs, resolution, classes = 1, (1,), 128, ("one",)

        def bank(self, **_: object) -> object:
            bank = artifact.bank(1, classes=[0], normalize=False)
            bank.images = bank.images.repeat_interleave(16, -1).repeat_interleave(16, -2)
            return bank

    (sheet,) = class_sheets(Large(), None)
    assert Image.open(io.BytesIO(sheet.generated[0])).size == (MOST_SIDE, MOST_SIDE)


def test_diverged_students_are_told(run, evaluation) -> None:
    result = {
        "method": "raycondense", "architecture": "convnet", "ipc": 2, "accounting": "bank", "labels": "hard",
        "augmented": True, "loss": None,
    }  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, results=(result,))))
    assert "1 of 5 students of raycondense" in page.text
    assert "1 of 5 students of raycondense" not in Page(write_report(run, evaluation=evaluation)).text


def test_methods_stand_below_each_other_and_images_per_class_side_by_side(run, evaluation) -> None:
    rows = (
        row("raycondense", 1, 0.4), row("random", 1, 0.3, std=None), row("raycondense", 10, 0.6),
        row("raycondense", 10, 0.7, accounting="stream"), row("random", 50, 0.5), row("whole", 0, 0.8),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert page.tables["Accuracies in %, convnet students"] == [
        ["accuracy %", "IPC 1", "IPC 10", "IPC 50"],
        ["raycondense", "40.0 ± 1.2", "60.0 ± 1.2", "–"],
        ["raycondense stream", "–", "70.0 ± 1.2", "–"],
        ["random real", "30.0", "–", "50.0 ± 1.2"],
        ["whole set", "80.0 ± 1.2"],
    ]


def test_what_may_not_be_compared_has_tables_of_its_own(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4), row("raycondense", 2, 0.6, labels="soft", teacher_bytes=2000, label_bytes=3000),
        row("raycondense", 2, 0.3, augmented=False), row("raycondense", 2, 0.5, "vit"),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    found = {label: lines[1][1] for label, lines in page.tables.items() if label.startswith("Accuracies")}
    assert found == {
        "Accuracies in %, convnet students": "40.0 ± 1.2",
        "Accuracies in %, convnet students, soft labels": "60.0 ± 1.2",
        "Accuracies in %, convnet students, without augmentation": "30.0 ± 1.2",
        "Accuracies in %, vit students": "50.0 ± 1.2",
    }


def test_all_columns_are_there_and_only_where_they_say_something(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4, hlr=0.1234, ior=0.05, lrs=0.26, ars=None, generation_seconds=2.5, images=1234567),
        row("raycondense", 2, 0.6, labels="soft", teacher_bytes=2000, label_bytes=3_000_000, accounting="bytes"),
    )
    table = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows))).tables[
        "All columns of all rows"
    ]
    hard, soft = (dict(zip(table[0], line, strict=True)) for line in table[1:])
    assert hard["HLR"] == "0.123"
    assert hard["accuracy %"] == "40.0 ± 1.2"
    assert (hard["images"], hard["size"]) == ("1,234,567", "1.0 kB")
    assert "2.50" in hard.values()
    assert (soft["labels"], soft["accounting"], soft["HLR"]) == ("soft", "bytes", "–")
    assert (soft["teacher"], soft["label bytes"]) == ("2.0 kB", "3.0 MB")
    assert "ARS" not in table[0]
    plain = Page(write_report(run, evaluation=evaluation)).tables["All columns of all rows"][0]
    assert not {"HLR", "labels", "teacher", "label bytes"} & set(plain)


def test_scores_stand_with_what_they_mean(run, evaluation) -> None:
    rows = (
        row("raycondense", 2, 0.4, hlr=0.1234, ior=0.05), row("random", 2, 0.4, ior=0.0),
        row("raycondense", 2, 0.4, accounting="stream", hlr=0.1), row("raycondense", 10, 0.4, "vit", hlr=-0.2),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, rows=rows)))
    assert page.tables["Scores of raycondense"] == [
        ["", "HLR", "IOR"],
        ["convnet students"],
        ["IPC 2", "0.123", "0.050"],
        ["IPC 2 stream", "0.100", "–"],
        ["vit students"],
        ["IPC 10", "-0.200", "–"],
    ]
    assert "hard-label recovery" in page.text
    assert "augmentation-robust score" not in page.text.partition("Against real images")[2]
    assert "Scores of raycondense" not in Page(write_report(run, evaluation=evaluation)).tables


def diagnostics(method: str, ipc: int, **values: float | None) -> dict[str, Any]:
    measured = dict.fromkeys(DIAGNOSTICS, 0.5)
    return {
        "method": method,
        "ipc": ipc,
        "accounting": "bank",
        "reference": "reference network (vit)",
        **measured,
        **values,
    }


def test_diagnostics_stand_with_a_line_on_each_column(run, evaluation) -> None:
    found = (
        diagnostics("raycondense", 1, spread_ratio=None), diagnostics("random", 1, spread_ratio=None),
        diagnostics("raycondense", 10, spread_ratio=0.98765),
    )  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, diagnostics=found)))
    lines = page.tables["Diversity and realism"]
    assert lines[0] == ["images of", *DIAGNOSTICS.values()]
    assert [line[:2] for line in lines[1:]] == [
        ["IPC 1"], ["raycondense", "–"], ["random real", "–"], ["IPC 10"], ["raycondense", "0.988"]
    ]  # fmt: skip
    assert "features of the reference network (vit)" in page.text
    assert all(MEASURES[name] in page.text for name in DIAGNOSTICS)
    # A column of nothing but dashes tells nothing.
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, diagnostics=found[:2])))
    assert DIAGNOSTICS["spread_ratio"] not in page.tables["Diversity and realism"][0]
    assert "Diversity and realism" not in Page(write_report(run, evaluation=evaluation)).text


def test_what_failed_stands_first_and_as_text(run, evaluation) -> None:
    failed = {"label": "pixel DM <images>", "error": "out of memory"}
    broken = dataclasses.replace(evaluation, failures=(failed,), missing=("no first codes",))
    page = Page(write_report(run, evaluation=broken))
    assert page.text.index("pixel DM <images>: out of memory") < page.text.index("convnet students")
    assert "no first codes" in page.text
    assert "Attention" not in Page(write_report(run, evaluation=evaluation)).text


def test_the_protocol_and_what_it_ran_on_are_told(run, evaluation) -> None:
    result = {
        "method": "raycondense", "architecture": "convnet", "ipc": 2, "accounting": "bank", "labels": "hard",
        "augmented": True, "loss": 0.1, "seconds": 90.0, "device": "cuda:7", "torch": "9.8.7", "raycondense": "0.0.1",
    }  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, results=(result, result))))
    for text in ("cuda:7", "9.8.7", "3.0 minutes", '"reference_steps": 5000'):
        assert text in page.text


def test_features_are_the_reference_networks_where_there_is_one(run, evaluation) -> None:
    seen: list[Tensor] = []

    def embed(images: Tensor) -> Tensor:
        seen.append(images)
        return images.float().flatten(1)[:, ::7]

    page = Page(write_report(run, evaluation=evaluation, embed=embed))
    assert {images.dtype for images in seen} == {torch.uint8}
    assert "the reference network (convnet, trained on all real images)" in page.text
    assert UNTRAINED not in page.text
    untrained = Page(write_report(run, evaluation=evaluation))
    assert untrained.text.count(UNTRAINED) == 2
    assert untrained.alts("3 classes") != page.alts("3 classes")
