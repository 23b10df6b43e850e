"""Safetensors in pieces: the same bytes as the library writes, nothing read that is not asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_pipeline.engine.files import DamagedFile, digest_file
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile, new_tensor, write_tensors

ROOT = Path(__file__).resolve().parents[3]


def test_rows_and_whole_tensors_are_read_and_written_as_the_library_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "z.weight": torch.randn(700, 33),
        "a.weight": torch.randn(5, 7, 3).bfloat16(),
        "nothing": torch.zeros(0, 4),
    }
    tensors |= {"steps": torch.tensor(7), "größe": torch.arange(9, dtype=torch.uint8)}
    names = {kind: name for name, kind in TORCH_TYPES.items()}
    shapes = {n: new_tensor(names[t.dtype], tuple(t.shape)) for n, t in tensors.items()}
    path, copy = tmp_path / "x.safetensors", tmp_path / "own.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    parts = {name: tensor.split(3) if tensor.dim() else (tensor,) for name, tensor in tensors.items()}
    assert write_tensors(copy, shapes, parts.__getitem__, {"format": "pt"}) == digest_file(copy) == digest_file(path)
    file = TensorFile(path)
    for name, tensor in tensors.items():
        assert torch.equal(file.tensor(name), tensor) and file.tensor(name).dtype == tensor.dtype
        assert b"".join(file.pieces(name)) == bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    assert torch.equal(file.rows("z.weight", 100, 103), tensors["z.weight"][100:103])
    content = path.read_bytes()
    for cut in (4, -1):
        path.write_bytes(content[:cut])
        with pytest.raises(DamagedFile, match=r"x\.safetensors .* is truncated"):
            TensorFile(path)


_MERGE = """
import json, sys
from pathlib import Path
from finetune_pipeline.models.merging import merge
facts = merge(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([int(told["VmHWM"].split()[0]) / 1024, facts["merged_tensors"]]))  # ru_maxrss counts the parent's, too
"""


def test_merging_takes_the_memory_of_some_rows_not_of_the_model(tmp_path: Path) -> None:
    layers, shape, mib = 14, (2048, 4096), 16
    names = [f"model.layers.{i}.mlp.up_proj" for i in range(layers)]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    stored = {f"{n}.weight": new_tensor("BF16", shape) for n in names}
    half = torch.full(shape, 0.5, dtype=torch.bfloat16)
    write_tensors(base / "model.safetensors", stored, lambda _: [half], {"format": "pt"})
    low = {f"base_model.model.{n}.lora_{m}.weight": s for n in names for m, s in (("A", (8, 4096)), ("B", (2048, 8)))}
    save_file({n: torch.full(s, 0.1) for n, s in low.items()}, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", _MERGE, str(base), str(adapter), str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    peak, merged = json.loads(completed.stdout)
    assert merged == layers
    assert (base / "model.safetensors").stat().st_size > 220 << 20
    assert peak < 3 * mib + 300
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(torch.equal(w, torch.full(shape, 0.58, dtype=torch.bfloat16)) for w in weights.values())
