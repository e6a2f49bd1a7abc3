"""The doctor: tells the truth about this environment, never crashes, and says how to mend what it finds."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import pytest

from salad_ds import doctor
from salad_ds.assets.catalogue import ASSETS


@pytest.fixture(scope="module")
def examined() -> tuple[bool, str]:
    stream = io.StringIO()
    return doctor.run(stream), stream.getvalue()


def test_a_set_up_environment_has_no_faults(examined):
    healthy, table = examined
    assert healthy, table
    assert "cannot be examined" not in table
    for name in ("python", "torch", "bfloat16", "distillation", "deepspeed", "torchaudio", "soundfile", "mlflow",
                 "ninja", *ASSETS):
        assert f"  {name} " in table, name


def test_every_lack_comes_with_its_mend(examined):
    lines = examined[1].splitlines()
    for i, text in enumerate(lines):
        if text.startswith((doctor.NOTE, doctor.FAULT)):
            assert lines[i + 1].strip().startswith("mend: ")


def test_a_bare_home_and_path_are_described_not_fatal(tmp_path, monkeypatch):
    """Nothing prepared, no programs: assets that need apt say so, DeepSpeed's launcher is found beside Python."""
    monkeypatch.setenv("SALAD_DS_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {finding.name: finding for finding in doctor.assets()}
    models = found["smollm2-135m"]
    assert models.state == doctor.OK and "python -m salad_ds.assets smollm2" in models.found
    words = found["wordnet"]
    assert words.state == doctor.NOTE and "apt-get, dpkg-deb" in words.found and words.mend
    launchers = {finding.name: finding for finding in doctor.deepspeed()}
    assert launchers["deepspeed"].state == doctor.OK and launchers["several hosts"].state == doctor.NOTE
    assert all(finding.state != doctor.FAULT for finding in doctor.compilers())
    assert not (tmp_path / "none").exists(), "looking must not leave anything behind"


def test_a_check_that_breaks_is_a_finding():
    def broken():
        yield doctor.Finding(doctor.OK, "first", "fine")
        raise OSError("libnothing.so: cannot open shared object file")

    first, second = doctor.guarded(broken)
    assert first.state == doctor.OK
    assert (second.state, second.name) == (doctor.FAULT, "broken") and "libnothing.so" in second.found


def test_does_not_import_what_is_slow():
    code = ("import io, sys; from salad_ds import doctor; doctor.run(io.StringIO());"
            "print(sorted({'deepspeed', 'transformers', 'mlflow', 'torchaudio'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_bf16_cost_is_a_ratio(monkeypatch):
    """Of the best of each, but for the first, which sets up."""
    took = (1, 20, 40, 2, 80, 60)  # seconds: fp32, then bf16
    read = itertools.chain.from_iterable((0.0, seconds) for seconds in took)
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(read))
        assert doctor.bf16_cost(64, 2) == 60 / 20
    assert 0 < doctor.bf16_cost(64, 2) < float("inf")
