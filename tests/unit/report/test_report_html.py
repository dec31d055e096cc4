"""`report.html`: one file, well formed, nothing fetched, whatever of a run there is."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil

import pytest
import torch
from PIL import Image
from torch import Tensor

from raycondense.artifact.load import load
from raycondense.errors import DataError, RunError
from raycondense.report.html import UNTRAINED, write_report
from raycondense.report.images import MOST_SIDE, class_sheets

from .page import Page, row


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


def test_numbers_from_a_stranger_are_text_too(run, evaluation) -> None:
    rows = tuple(row("raycondense", 2, 0.5, name, ior=0.1) for name in ("<i>net</i>", '"><script>'))
    result = {
        **dict(zip(("method", "architecture", "ipc", "accounting", "labels", "augmented"), rows[0].key, strict=True))
    }
    hostile = {**evaluation.test, "source": "<script>x</script>"}
    told = dataclasses.replace(evaluation, rows=rows, test=hostile, results=({**result, "loss": 1.0, "device": "<i>"},))
    page = Page(write_report(run, evaluation=told))
    assert not {"i", "script"} & {tag for tag, _ in page.tags}
    assert "<i>net</i> students" in page.text
    assert "<script>x</script>" in page.text
    assert 'Accuracies in %, "><script> students' in page.tables


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


def test_the_protocol_and_what_it_ran_on_are_told(run, evaluation) -> None:
    result = {
        "method": "raycondense", "architecture": "convnet", "ipc": 2, "accounting": "bank", "labels": "hard",
        "augmented": True, "loss": 0.1, "seconds": 90.0, "device": "cuda:7", "torch": "9.8.7", "raycondense": "0.0.1",
    }  # fmt: skip
    page = Page(write_report(run, evaluation=dataclasses.replace(evaluation, results=(result, result))))
    for text in ("cuda:7", "9.8.7", "3 min in all", '"reference_steps": 5000'):
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
