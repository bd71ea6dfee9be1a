"""Records what a CUDA graph would: the operations of a function on memory that stays where it is."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class OperationRecorder:
    """A ``Recorder`` on the CPU: a list of operations, repeated without the Python that called them.

    As a graph it computes nothing while it records: what was written meanwhile is put back. Each operation reads and
    writes the tensors it had when it was recorded, and whatever the host told it is frozen.
    """

    def __init__(self):
        self.replays = 0

    def run(self, function):
        return function()

    def record(self, function):
        operations, before = [], []

        class Note(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                written = [
                    kwargs.get(argument.name, args[number] if number < len(args) else None)
                    for number, argument in enumerate(func._schema.arguments)
                    if argument.alias_info is not None and argument.alias_info.is_write
                ]
                before.extend((tensor, tensor.clone()) for tensor in tensors_in(written))
                result = func(*args, **kwargs)
                operations.append((func, args, kwargs, tensors_in(result)))
                return result

        with Note():
            result = function()
        with torch.no_grad():
            for tensor, value in reversed(before):
                tensor.copy_(value)

        def replay():
            self.replays += 1
            with torch.no_grad():
                for func, args, kwargs, outputs in operations:
                    for old, new in zip(outputs, tensors_in(func(*args, **kwargs)), strict=True):
                        if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                            old.copy_(new)

        return replay, result


def tensors_in(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]
