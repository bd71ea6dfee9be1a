"""An ONNX file for onnxruntime and whatever else reads ONNX: any number and size of images."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from hjepa.deploy.export.export_format import ExportFormat, Reloaded
from hjepa.deploy.export.portable import PortableEncoder, exported, takes_any_size
from hjepa.errors import UserError
from hjepa.models.frozen import FrozenEncoder

FILE = "encoder.onnx"
OPSET = 18  # read by onnxruntime since version 1.14 (2023)


class OnnxFile(ExportFormat):
    """encoder.onnx: ``images`` to ``tokens`` and ``pooled``."""

    name, library = "onnx", "onnx"
    any_size, normalises, has_levels = True, True, True

    def refuse_missing_packages(self) -> None:
        """Raise UserError if a package is missing that writes or runs ONNX."""
        if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
            raise UserError(f"--to onnx needs {missing[0]}: pip install 'hjepa[onnx]'")

    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Translate the encoder's graph, with names for its inputs and outputs, and check the file."""
        import onnx

        program = torch.onnx.export(
            exported(PortableEncoder(encoder, level)),
            input_names=["images"],
            output_names=["tokens", "pooled"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        graph = program.model.graph
        for value, axes in (
            (graph.inputs[0], {0: "batch", 2: "height", 3: "width"}),
            (graph.outputs[0], {0: "batch", 1: "patches" if level is None else "cells"}),
            (graph.outputs[1], {0: "batch"}),
        ):
            assert value.shape is not None
            for axis, name in axes.items():
                value.shape[axis] = name
        graph.inputs[0].doc_string = "floats in 0..1; they are normalised in the graph"
        program.save(folder / FILE)
        onnx.checker.check_model(folder / FILE, full_check=True)

    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Open the file in onnxruntime, on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            tokens, pooled = session.run(["tokens", "pooled"], {"images": images.numpy()})
            return torch.from_numpy(tokens), torch.from_numpy(pooled)

        return Reloaded(network, f"onnxruntime {version('onnxruntime')}, opset {OPSET}")

    def note(self, encoder: FrozenEncoder) -> str:
        """Return the opset, and which images the file takes."""
        return f"The file has opset {OPSET}. {takes_any_size(encoder)}"

    def usage(self, encoder: FrozenEncoder) -> str:
        """Return the lines that run the file in onnxruntime."""
        return """import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/encoder.onnx")
# images: a float32 array in 0..1, [B, C, H, W]; normalisation is inside
tokens, pooled = session.run(["tokens", "pooled"], {"images": images})  # [B, N, D], [B, D]
"""
