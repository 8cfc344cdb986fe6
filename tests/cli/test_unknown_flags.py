import pytest

from exportloss.cli import main, make_parser
from exportloss.cli.unknown_flags import _ANSWERS
from tests.support.messages import error_of, missing

REQUIRED = {
    "train": [],
    "val": ["--weights", "w", "--data", "d"],
    "detect": ["--weights", "w", "--source", "s"],
    "export": ["--weights", "w"],
}


def refused(command, *arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, *REQUIRED[command], *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command in _ANSWERS for flag in _ANSWERS[command]]
)
def test_a_flag_of_yolov5_that_is_not_here_is_answered(command, flag, capsys):
    told = refused(command, flag, "3", capsys=capsys)
    assert told.startswith(f"usage: exportloss {command}")
    assert error_of(told).startswith(f"{flag}: ")


@pytest.mark.parametrize(
    ("flag", "reasons"),
    [
        ("--multi-scale", ("one shape", "`scale`")),
        ("--rect", ("one shape", "letterboxed")),
        ("--quad", ("one shape", "one batch size")),
    ],
)
def test_what_a_graph_of_one_shape_cannot_do_is_answered_in_a_line(flag, reasons, capsys):
    *usage, answer = refused("train", flag, capsys=capsys).splitlines()
    assert usage[0].startswith("usage: ")
    assert error_of(answer).startswith(f"{flag}: ")
    assert not missing(answer, *reasons)


def test_a_batch_size_that_is_to_be_tried_out_is_answered_in_a_line(
    tiny_artifact, tiny_shapes, capsys
):
    for weights, reason in (("yolov5n", "the one of the graph"), (tiny_artifact, "with 2, which")):
        arguments = ("--weights", weights, "--data", tiny_shapes, "--batch-size", -1)
        assert main(["train", *map(str, arguments)]) == 2
        (answer,) = capsys.readouterr().err.splitlines()
        assert "--batch-size -1: " in answer
        assert reason in answer


@pytest.mark.parametrize(
    ("command", "flag", "near"),
    [
        ("train", "--epoch-s", "--epochs"),
        ("train", "--patiance=3", "--patience"),
        ("detect", "--save-jsn", "--save-json"),
    ],
)
def test_a_mistyped_flag_is_told_what_is_near(command, flag, near, capsys):
    told = refused(command, flag, capsys=capsys)
    assert told.startswith(f"usage: exportloss {command}")
    assert not missing(error_of(told), flag.partition("=")[0], near)


def test_nothing_is_near_nonsense(capsys):
    answer = error_of(refused("train", "--zzzz", capsys=capsys))
    assert answer.count("--") == 1 and not missing(answer, "--zzzz")
    assert "'a'" in error_of(refused("train", "a", capsys=capsys))


@pytest.mark.parametrize("command", _ANSWERS)
def test_what_is_answered_is_not_there(command):
    (commands,) = (action for action in make_parser()._actions if action.dest == "command")
    known = {o for action in commands.choices[command]._actions for o in action.option_strings}
    assert not known & _ANSWERS[command].keys()
