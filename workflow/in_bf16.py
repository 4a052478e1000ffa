"""A command of reidnb in the bfloat16 arithmetic of a CPU that has it, on one that has not.

    python workflow/in_bf16.py run baseline --profile full --seeds 3

The tables' rows were made where hardware multiplies bfloat16: factors of eight binary digits, sums in float32, results
rounded to eight digits again. Here each convolution and each product of matrices does that in float32: what enters is
rounded already, so its products are exact there, and what leaves is rounded. Only the order of a sum differs, as it
does between two CPUs that have bfloat16. It takes about as long as float32. The device of such a row ends in "by
rounding"."""

import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reidnb import copies, experiments, runtime
from reidnb.__main__ import main

ATEN = torch.ops.aten
PRODUCTS = {
    *(ATEN.convolution.default, ATEN.convolution_backward.default),
    *(ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default, ATEN.baddbmm.default),
}


class ByRounding(TorchDispatchMode):
    """While it is entered, products of bfloat16 tensors are summed in float32 and then rounded."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation not in PRODUCTS or not any(_is_bf16(each) for each in args):
            return operation(*args, **kwargs)
        found = operation(*(each.float() if _is_bf16(each) else each for each in args), **kwargs)
        if isinstance(found, tuple):  # the gradients of a convolution, of which some are not asked for
            return tuple(None if each is None else each.to(torch.bfloat16) for each in found)
        return found.to(torch.bfloat16)


def _is_bf16(value):
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16


def circumstances(device):
    """What `runtime.circumstances` says, and that bfloat16 was made by rounding."""
    told = runtime.circumstances(device)
    return {**told, "device": f"{told['device']}, by rounding"}


if __name__ == "__main__":
    torch.cpu._is_avx512_bf16_supported = lambda: True  # what runtime.precision asks
    experiments.circumstances = copies.circumstances = circumstances
    with ByRounding():
        sys.exit(main())
