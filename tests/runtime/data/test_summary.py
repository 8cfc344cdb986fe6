import pytest

from exportloss.cli import main
from exportloss.errors import DataError
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.data.summary import refuse_nothing_to_learn, summarize
from tests.support.tiny_runs import make_tiny_shapes


@pytest.fixture
def recipe(tmp_path):
    return make_tiny_shapes(tmp_path / "data")


def summary_of(recipe, split="train"):
    batches = Batches(Dataset.open(read_data_yaml(recipe), split), 2, (64, 64))
    return batches, summarize(batches)


def labels(recipe):
    return sorted((recipe.parent / "labels" / "train").iterdir())


def test_a_split_in_numbers(recipe):
    counts = [len(path.read_text().splitlines()) for path in labels(recipe)]
    _, summary = summary_of(recipe)
    assert (summary.images, summary.objects) == (8, sum(counts))
    assert summary.fullest == sum(sorted(counts)[-2:])
    assert (summary.without_file, summary.empty, summary.orphans) == (0, counts.count(0), ())
    full = [path for path, count in zip(labels(recipe), counts, strict=True) if count]
    full[0].write_text("")
    full[1].unlink()
    _, changed = summary_of(recipe)
    assert (changed.without_file, changed.empty) == (1, summary.empty + 1)


@pytest.mark.parametrize("rename", ["{stem}.TXT", "{stem}_label.txt", "{stem}.png.txt"])
def test_label_files_that_are_not_read_are_found(recipe, rename):
    expected = set()
    for path in labels(recipe)[:7]:
        expected.add(path.rename(path.with_name(rename.format(stem=path.stem))))
    (recipe.parent / "labels" / "train" / "classes.txt").write_text("circle\n")
    _, summary = summary_of(recipe)
    assert set(summary.orphans) == expected
    assert summary.without_file == 7


def test_a_list_of_some_images_does_not_make_orphans_of_the_others(recipe):
    images = recipe.parent / "images" / "train"
    listed = "".join(f"./images/train/{path.name}\n" for path in sorted(images.iterdir())[:4])
    (recipe.parent / "some.txt").write_text(listed)
    recipe.write_text(recipe.read_text().replace("train: images/train", "train: some.txt"))
    _, summary = summary_of(recipe)
    assert (summary.images, summary.orphans) == (4, ())


def test_a_training_split_without_an_object_is_refused(recipe, tiny_artifact, capsys):
    batches, summary = summary_of(recipe)
    refuse_nothing_to_learn(batches, summary)
    for path in labels(recipe):
        path.write_text("")
    batches, summary = summary_of(recipe)
    with pytest.raises(DataError, match="8 training images"):
        refuse_nothing_to_learn(batches, summary)
    assert main(["train", "--weights", str(tiny_artifact), "--data", str(recipe)]) == 2
    assert "8 training images" in capsys.readouterr().err
