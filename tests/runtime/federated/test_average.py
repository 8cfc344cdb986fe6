"""The average of several devices' weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.runtime.artifact.flat_layout import FlatLayout
from exportloss.runtime.artifact.manifest import BatchNormStatistics
from exportloss.runtime.artifact.weights import Weights, WeightsLayout
from exportloss.runtime.federated.average import average
from tests.support.messages import mentions

NORM = BatchNormStatistics(mean="bn.running_mean", var="bn.running_var", count=8, momentum=0.03)
LAYOUT = WeightsLayout(
    parameters=FlatLayout(("a", "b"), ((5,), (2, 3))),
    statistics=FlatLayout((NORM.mean, NORM.var), ((4,), (4,))),
    norms=(NORM,),
    detector="d",
)


def make(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    statistics = np.concatenate([rng.normal(size=4), rng.uniform(0.1, 2, 4)])
    return Weights(
        layout=LAYOUT,
        parameters=rng.normal(size=11).astype(np.float32),
        statistics=statistics.astype(np.float32),
    )


def test_the_average_is_weighted():
    models, weights = [make(0), make(1), make(2)], [1, 2, 5]
    found = average(models, weights, pooled_variances=False)
    for field in ("parameters", "statistics"):
        vectors = np.stack([getattr(model, field) for model in models]).astype(np.float64)
        expected = np.average(vectors, axis=0, weights=weights)
        np.testing.assert_allclose(getattr(found, field), expected, rtol=1e-6)
        assert getattr(found, field).dtype == np.float32


def test_pooled_variances_are_those_of_all_values_together():
    rng = np.random.default_rng(0)
    groups = [rng.normal(place, 0.5 + place, (count, 4)) for place, count in enumerate((30, 50))]
    models = [
        dataclasses.replace(
            make(0),
            statistics=np.concatenate([group.mean(axis=0), group.var(axis=0)]).astype(np.float32),
        )
        for group in groups
    ]
    everything = np.concatenate(groups)
    found = average(models, [30, 50]).tensors
    np.testing.assert_allclose(found[NORM.mean], everything.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[NORM.var], everything.var(axis=0), rtol=1e-5)
    apart = average(models, [30, 50], pooled_variances=False).tensors
    assert (apart[NORM.var] < found[NORM.var]).all()


@pytest.mark.parametrize("pooled", [True, False])
def test_one_model_and_equal_models_are_their_own_average(pooled):
    model = make(0)
    for count, weight in ((1, 3.7), (4, 0.1), (7, 1e6)):
        found = average([model] * count, [weight] * count, pooled_variances=pooled)
        assert found.sha256 == model.sha256


def test_the_same_order_gives_the_same_bits_and_vectors_are_not_touched():
    models = [make(seed) for seed in range(5)]
    before = [model.sha256 for model in models]
    one, other = (average(models, [3, 1, 4, 1, 5]) for _ in range(2))
    assert one.sha256 == other.sha256
    assert [model.sha256 for model in models] == before


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, 1e308, 1e-320, 10**400, None, "2"])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ConfigError, match=mentions("weight 1", str(weight)[:60])):
        average([make(0), make(1)], [1, weight])


@pytest.mark.parametrize(("models", "weights"), [(0, 0), (2, 1), (1, 2)])
def test_numbers_of_models_and_weights_must_agree(models, weights):
    with pytest.raises(ConfigError, match=mentions(str(models), str(weights))):
        average([make(0)] * models, [1] * weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_is_not_finite_is_refused_by_its_position(value):
    bad = make(1)
    bad.parameters[3] = value
    with pytest.raises(ArtifactError, match=mentions("model 1", "a ", "finite")):
        average([make(0), bad], [1, 1])


def test_what_is_no_weights_is_refused_by_its_position():
    with pytest.raises(ArtifactError, match=mentions("model 1", "dict")):
        average([make(0), make(1).tensors], [1, 1])


def test_a_variance_that_float32_cannot_hold_is_refused():
    far = make(1)
    far.statistics[:4] = 1e30
    with pytest.raises(ArtifactError, match=mentions(NORM.var, "finite")):
        average([make(0), far], [1, 1])


def test_another_layout_is_refused_by_its_position():
    for change in ({"detector": "e"}, {"parameters": FlatLayout(("a", "c"), ((5,), (2, 3)))}):
        other = dataclasses.replace(make(1), layout=dataclasses.replace(LAYOUT, **change))
        with pytest.raises(ArtifactError, match=mentions("model 1", LAYOUT.digest[:12])):
            average([make(0), other], [1, 1])
