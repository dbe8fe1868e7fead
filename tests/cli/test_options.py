"""The command line answers fast, documents every option, and explains what it refuses."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scalewise.cli import COMMANDS, main
from scalewise.cli.parsing import build, parse, with_underscores
from scalewise.cli.train import parser
from scalewise.errors import UsageError
from scalewise.lab.training.config import GROUPS, TrainConfig
from scalewise.lab.training.option_check import check
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import RunError


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def train_config(*words: str) -> TrainConfig:
    config: TrainConfig = build(TrainConfig, parse(parser(), list(words), *GROUPS))
    return config


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_needs_no_torch(words: list[str]) -> None:
    done = run_python(
        "import sys\nfrom scalewise.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    assert "usage: scalewise" in done.stdout


def test_top_level_help_imports_no_third_party_package() -> None:
    done = run_python(
        "import sys\nbefore = set(sys.modules)\nfrom scalewise.cli import main\nmain(['--help'])\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "assert new - sys.stdlib_module_names == {'scalewise'}, new"
    )
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def test_every_option_is_documented() -> None:
    text = " ".join(parser().format_help().split())
    for group in GROUPS:
        for option in dataclasses.fields(group):
            assert f" --{option.name} " in text, option.name
        assert (group.__doc__ or "").splitlines()[0].rstrip(".") in text
    documented = {
        line.strip().partition(":")[0]
        for group in GROUPS
        for line in inspect.cleandoc(group.__doc__ or "").splitlines()
        if line.startswith("    ") and line[4:5].isalpha() and ":" in line
    }
    assert {o.name for o in dataclasses.fields(TrainConfig)} <= documented


def test_dashes_and_bare_flags() -> None:
    assert with_underscores(["--skip-bad", "--weights-backbone=a-b", "x-y"], {"skip_bad"}) == [
        "--skip_bad=true",
        "--weights_backbone=a-b",
        "x-y",
    ]
    config = train_config(
        "--data", "x", "--skip-bad", "--weights-backbone", "w.pth", "--cache", "ram"
    )
    assert config.skip_bad
    assert config.weights_backbone == "w.pth"
    assert not train_config("--data", "x", "--skip_bad", "false").skip_bad


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epoks 3", "there is no option --epoks; did you mean --epochs?"),
        ("--epoch 3", "there is no option --epoch; did you mean --epochs?"),  # no abbreviations
        ("-epochs 3", "there is no option -epochs; did you mean --epochs?"),
        ("--Batch-Size 3", "there is no option --Batch_Size; did you mean --batch_size?"),
        ("--skip", "there is no option --skip; did you mean --skip_bad?"),
        ("--lr abc", "--lr must be a number, not 'abc'"),
        ("--epochs 2.5", "--epochs must be a whole number, not '2.5'"),
        ("--workers many", "--workers must be a whole number or auto, not 'many'"),
        ("--precision 16-mixd", "not '16-mixd'; did you mean '16-mixed'?"),
        ("--detector yolo", "--detector must be one of atss, fcos, retinanet, not 'yolo'"),
        ("--epochs", "--epochs needs a value after it"),
        ("extra", "'extra' belongs to no option; --data names the data"),
        ("--config no.yaml", "--config: there is no file '{folder}/no.yaml'"),
    ],
)
def test_mistakes_are_told_in_plain_words(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        train_config("--data", "x", *words.split())
    said = str(error.value).removesuffix("; --help says more")
    assert said.endswith(message.format(folder=tmp_path))
    assert said.endswith("?") == ("did you mean" in message)


@pytest.mark.parametrize(
    "option", [f.name for f in dataclasses.fields(TrainConfig) if "str" not in str(f.type)]
)
def test_values_of_the_wrong_kind_are_told_without_names_of_types(option: str) -> None:
    with pytest.raises(
        UsageError, match=rf"--{option} must be [\w ,*-]+, not '@'; --help"
    ) as error:
        train_config(f"--{option}=@")
    assert not re.search(r"typing|<class|Union|Literal", str(error.value))


def test_switches_take_yes_and_no() -> None:
    assert train_config("--data", "x", "--strict", "yes", "--mosaic", "no").strict
    assert not train_config("--data", "x", "--strict", "no", "--mosaic").strict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "there is no option --batchsize; did you mean --batch_size?"),
        ("by: classes", "--by must be one of auto, level, .*; did you mean 'class'?"),
        ("lr: [1", "--config: the file is not valid YAML: .* line 1"),
        ("- 1", "--config: the file has no lines such as 'epochs: 12'"),
    ],
)
def test_mistakes_in_yaml_are_told_in_plain_words(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        train_config("--config", str(tmp_path / "run.yaml"))


def test_printed_config_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--data", "x", "--lr", "0.5", "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lr"] == 0.5
    (tmp_path / "run.yaml").write_text(printed)
    again = train_config("--config", str(tmp_path / "run.yaml"), "--seed", "4")
    assert (again.data, again.lr, again.seed) == ("x", 0.5, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", ""], "--data is missing"),
        (["--data", "x", "--epochs", "0"], "--epochs must be above 0"),
        (["--data", "x", "--warmup", "-1"], "--warmup must not be negative"),
        (["--data", "x", "--ema", "1"], "--ema must be at least 0 and below 1"),
        (["--data", "x", "--flip", "2"], "--flip must be a probability"),
        (["--data", "x", "--mosaic", "--batch_size", "3"], "set it to 4 or more, or leave"),
        (["--data", "x", "--name", "a/b"], "--name must be the name of a folder"),
        (["--data", "x", "--workers", "-2"], "--workers must not be negative"),
    ],
)
def test_impossible_values_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(train_config(*words))


def test_unknown_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_user_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 1
    error = capsys.readouterr().err
    assert "no run folder" in error
    assert error.count("\n") == 1
    assert main(["train", "--resume", str(tmp_path), "--epochs", "3"]) == 2
    assert "cannot be changed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare"])
def test_64_bits_are_refused_with_what_there_is(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 bits are refused, since losses are computed in 32 bits anyway."""
    words = ["--data", "demo", "--out", str(tmp_path / "out"), "--precision", "64-true"]
    assert main([command, *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in ("precision", "64-true", "32-true", "bf16-mixed", "16-mixed"):
        assert word in said
    assert not (tmp_path / "out").exists()
    file = tmp_path / "config.yaml"  # as version 0.1.0 wrote it
    file.write_text("data: demo\nprecision: 64-true\n")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read: .*precision.*64-true"):
        load_config(tmp_path)


def test_a_study_cannot_take_the_place_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    out.write_text("kept")
    words = ["compare", "--data", "demo:images=8,size=64", "--size", "64", "--out", str(out)]
    assert main([*words, "--schemes", "equal,avw", "--seeds", "1"]) == 1
    assert "could not be made: there is a file of that name" in capsys.readouterr().err
    assert out.read_text() == "kept"
