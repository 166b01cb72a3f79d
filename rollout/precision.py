"""How exact products are, in learner and rollout engines alike; no library's default decides."""

import torch


def set_precision() -> None:
    """Compute products of float32 in float32 (no TF32), and add up products of 16 bits in float32.

    Types say how exact a run is: `trainer.precision.compute` and `rollout.dtype` choose bfloat16 where speed is wanted.
    What stays float32, such as a router, is float32 for a reason: TF32 keeps 10 bits of a mantissa and would send
    tokens to other experts. Sums in 16 bits, which cuBLAS may take where it splits a product, differ with the batch,
    and so part the learner from the engine whose samples it scores. Libraries change these settings of the process.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
