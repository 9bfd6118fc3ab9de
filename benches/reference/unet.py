"""A denoising call."""

import torch

from reference.measure import memory_before, memory_since, timed
from reference.models import NUM_TOKENS, TEXT_TOKENS, Context, random_unet, set_processors


def bench(args, device, dtype):
    unet = random_unet(args.config, device, dtype)
    if not args.no_adapter:
        set_processors(unet, device, dtype)
    side, width = args.size // 8, unet.config.cross_attention_dim
    latents = torch.randn(args.batch, 4, side, side, device=device, dtype=dtype)
    timestep = torch.tensor(500, device=device)
    text = torch.randn(args.batch, TEXT_TOKENS, width, device=device, dtype=dtype)
    tokens = torch.randn(args.batch, NUM_TOKENS, width, device=device, dtype=dtype)
    inputs = (latents, timestep, text) if args.no_adapter else (latents, timestep, text, tokens)
    call = BACKENDS[args.backend](Context(unet), inputs)
    del unet
    before = memory_before(device)
    result = timed(call, args.runs, device) | memory_since(device, before)
    return result | {"image_tokens": 0 if args.no_adapter else NUM_TOKENS}


def eager(model, inputs):
    def call():
        with torch.no_grad():
            model(*inputs)

    return call


def compiled(model, inputs):
    return eager(torch.compile(model), inputs)


def openvino(model, inputs):
    """On the CPU, in f32: the library's own default is lower where the processor has it."""
    import openvino

    with torch.no_grad():
        converted = openvino.convert_model(model, example_input=inputs)
    for port, value in zip(converted.inputs, inputs, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(list(value.shape)))
    converted.validate_nodes_and_infer_types()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(converted, "CPU", hints).create_infer_request()
    arrays = [value.numpy() for value in inputs]
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


BACKENDS = {"eager": eager, "compile": compiled, "openvino": openvino}
