"""CL4SRec's recipes have SASRec's encoder, rows and budget; its variants differ in what their names say."""

from __future__ import annotations

import pytest

from guiderec.recipes.registry import recipe


@pytest.mark.parametrize("name", ["beauty", "sports", "toys", "beauty_leave_one_out", "demo"])
def test_it_differs_from_sasrec_in_the_contrast_alone(name: str):
    ours, sasrec = recipe(f"cl4srec:{name}"), recipe(f"sasrec:{name}")
    options = type(sasrec.model).model_fields.keys() - {"name"}
    assert {"dim", "dropout", "norm", "predict", "objective"} <= options
    assert all(getattr(ours.model, option) == getattr(sasrec.model, option) for option in options)
    assert ours.replace(recipe="", model=sasrec.model) == sasrec.replace(recipe="")


@pytest.mark.parametrize("name", ["beauty", "sports", "toys"])
def test_the_contrast_is_that_of_the_usual_code(name: str):
    model = recipe(f"cl4srec:{name}").model
    crop, mask, reorder = model.augmentations
    assert (crop.kept, mask.ratio, reorder.ratio) == (0.6, 0.3, 0.6)
    assert (model.pair, model.contrast_weight, model.temperature, model.similarity) == ("different", 0.1, 1.0, "dot")


@pytest.mark.parametrize("name", ["crop", "mask", "reorder"])
def test_a_variant_has_one_operator(name: str):
    base, variant = recipe("cl4srec:beauty"), recipe(f"cl4srec:beauty_{name}")
    assert [augmentation.name for augmentation in variant.model.augmentations] == [name]
    assert variant.model.replace(augmentations=base.model.augmentations) == base.model
    assert variant.replace(recipe=base.recipe, model=base.model) == base
