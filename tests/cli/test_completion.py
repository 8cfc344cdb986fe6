import subprocess
import sys

import pytest

from exportloss import InstallationError
from exportloss.cli import completion, main, make_parser


def test_bash_completes_commands_and_options(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "exportloss.bash"
    script.write_text(capsys.readouterr().out)
    ask = f"""
source {script}
COMP_WORDS=(exportloss train --ep) COMP_CWORD=2
_shtab_exportloss
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert "--epochs" in done.stdout.split()


def test_without_shtab_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InstallationError, match=r"pip install .*\[completion\]"):
        completion.run(make_parser().parse_args(["completion", "zsh"]))
