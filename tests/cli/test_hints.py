import io
import pickle

import pytest

from exportloss.cli import hints, main, make_parser
from exportloss.errors import ArtifactError, ConfigError, ExportLossError, InstallationError
from exportloss.runtime.processes.child import raise_told, receive
from exportloss.runtime.processes.limits import told


def _flags(parser):
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _flags(command)


@pytest.mark.parametrize("flag", hints.FLAGS.values(), ids=hints.FLAGS)
def test_every_hint_names_a_flag_that_a_command_has(flag):
    assert flag.split()[-1] in set(_flags(make_parser()))


@pytest.mark.parametrize("kind", [ExportLossError, ConfigError, InstallationError])
def test_an_error_keeps_its_argument_beside_its_message(kind):
    error = kind("device is x", argument="device")
    assert str(error) == "device is x"
    assert hints.with_flag(error) == "device is x (--device)"
    assert pickle.loads(pickle.dumps(error)).argument == "device"


@pytest.mark.parametrize("argument", [None, "no_such_argument"])
def test_an_error_about_no_flag_is_shown_as_it_is(argument):
    assert hints.with_flag(ConfigError("lr is -1", argument=argument)) == "lr is -1"


def test_an_error_of_a_child_process_keeps_its_argument():
    answers = io.BytesIO()
    with told(answers, ArtifactError, too_much="", failed=""):
        raise ConfigError("time_limit is 0", argument="time_limit")
    answers.seek(0)
    answer, _ = receive(answers)
    with pytest.raises(ConfigError, match="time_limit is 0") as raised:
        raise_told(answer, default=ArtifactError)
    assert raised.value.argument == "time_limit"


def test_the_command_names_the_flag_of_an_argument(capsys, monkeypatch):
    def refuse(*_: object) -> int:
        raise ConfigError("device is 'x'", argument="device")

    monkeypatch.setattr("exportloss.cli._parse", lambda _: type("", (), {"run": refuse})())
    assert main([]) == 2
    assert capsys.readouterr().err == "exportloss: error: device is 'x' (--device)\n"
