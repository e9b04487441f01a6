"""The shapes of the timed rows' inputs, which the compilers take for the arrays."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxloss as jl


def timed_inputs() -> dict[str, tuple[Any, ...]]:
    """The shapes of the timed rows' inputs, by the rows' names."""
    real, integer, boolean = map(array, ("float32", "int32", "bool"))
    boxes = (real(1 << 20, 4),) * 2
    many, pixels = (real(1 << 24),) * 2, (real(8, 256, 256, 8),) * 2
    soft = (real(65536, 1000),) * 2
    linear = real(4096, 512), real(512, 50304), integer(4096)
    layer, teacher = (real(2048, 512), linear[1]), (real(2048, 1024), real(1024, 50304))
    parameters = jax.eval_shape(
        lambda: jl.init_adaptive_softmax(
            jax.random.key(0), 512, 50304, (50304 // 25, 50304 // 5)
        )
    )
    return {
        "binary cross entropy 16.8 M": many,
        "focal loss 16.8 M": many,
        "log-cosh 16.8 M": many,
        "huber 16.8 M": many,
        "integer labels 4096 x 32768": (real(4096, 32768), integer(4096)),
        "integer labels 65536 x 1000": (real(65536, 1000), integer(65536)),
        "integer labels 1048576 x 10": (real(1 << 20, 10), integer(1 << 20)),
        "linear 4096 x 512 x 50304": linear,
        "linear 4096 x 512 x 50304, half ignored": linear,
        "linear 4096 x 512 x 50304, embedding table": (
            linear[0],
            real(50304, 512),
            linear[2],
        ),
        "linear log probs 2048 x 512 x 50304": (*layer, integer(2048)),
        "linear statistics 2048 x 512 x 50304": (*layer, integer(2048)),
        "adaptive softmax 4096 x 512 x 50304": (*linear[:2], parameters, linear[2]),
        "linear distillation 2048 x 512 x 50304, teacher 1024": (
            *layer,
            *teacher,
        ),
        "linear JSD 2048 x 512 x 50304, teacher 1024": (*layer, *teacher),
        "linear sparse distillation 2048 x 512 x 50304, 16 known": (
            *layer,
            integer(2048, 16),
            real(2048, 16),
        ),
        "dense labels 65536 x 1000": soft,
        "softmax statistics 16384 x 4096": (real(16384, 4096), integer(16384)),
        "distillation 16384 x 4096": (real(16384, 4096),) * 2,
        "sparse distillation 16384 x 4096, 16 known": (
            real(16384, 4096),
            integer(16384, 16),
            real(16384, 16),
        ),
        "ntxent 4096 x 128": (real(4096, 128), integer(4096)),
        "SigLIP 8192 x 512": (real(8192, 512),) * 2,
        "CLIP 8192 x 512": (real(8192, 512),) * 2,
        "triplet 262144 x 64": (real(262144, 64),) * 3,
        "CRPS 65536 x 64": (real(65536, 64), real(65536)),
        "negative binomial 4.2 M": (real(1 << 22),) * 3,
        "Student t 4.2 M": (real(1 << 22),) * 4,
        "Cox 131072": (real(1 << 17),) * 3,
        "energy score 4096 x 16 x 64": (real(4096, 16, 64), real(4096, 64)),
        "CTC 16 x 400 x 64, 60 labels": (
            real(16, 400, 64),
            real(16, 400),
            integer(16, 60),
            real(16, 60),
        ),
        "transducer 8 x 200 x 51 x 512": (
            real(8, 200, 51, 512),
            real(8, 200),
            integer(8, 50),
            real(8, 50),
        ),
        "linear transducer 8 x 400 x 101 x 512 x 1024": (
            real(8, 400, 512),
            real(8, 101, 512),
            real(512, 1024),
            integer(8, 100),
            real(8, 400),
            real(8, 100),
        ),
        "Dice 8 x 256 x 256 x 8": pixels,
        "Lovász softmax 8 x 256 x 256 x 8": (pixels[0], integer(8, 256, 256)),
        "DPO 4.2 M pairs": (real(1 << 22),) * 4,
        "KTO 4.2 M": (real(1 << 22), real(1 << 22), boolean(1 << 22)),
        "ORPO 4.2 M pairs": (real(1 << 22),) * 2,
        "clipped policy loss 16.8 M": (real(1 << 24),) * 3,
        "policy loss of sequences 16384 x 1024": (
            real(16384, 1024),
            real(16384, 1024),
            real(16384, 1),
        ),
        "KL estimate 16.8 M": many,
        "router balance 65536 x 64, 8 per token": (
            real(65536, 64),
            integer(65536, 8),
        ),
        "router z-loss 65536 x 64": (real(65536, 64),),
        "KL divergence 65536 x 1000": soft,
        "Lovász hinge 8 x 512 x 512": (real(8, 512, 512), boolean(8, 512, 512)),
        "generalized box IoU 1 M": boxes,
        "distance box IoU 1 M": boxes,
        "complete box IoU 1 M": boxes,
    }


def array(dtype):
    """What makes an array's shape, of this dtype, from its sizes."""
    return lambda *shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
