"""What only a GPU can show: nothing waits in the loop, and the fast ways give what the plain ones give."""

import numpy as np
import pytest
import torch
from generation.tiny_assets import SIZE_HW, photograph, tiny_pipeline
from maps.moving_shapes import moving_ids

from hierasurg_core.generation import HieraSurgPipeline, Sampling
from hierasurg_core.generation.acceleration import Speed, prepare
from hierasurg_core.generation.memory import ClipShape
from hierasurg_core.maps import PanopticClip
from hierasurg_core.models import flash4
from hierasurg_core.models.attention import attend, fastest_kernel
from hierasurg_core.models.block import StackBlock
from hierasurg_core.runtime import make_generator
from hierasurg_core.training.offload import OffloadedAdamW

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
HAS_FLASH4 = torch.cuda.is_available() and flash4.runs_on(CUDA)
CLIP = ClipShape(SIZE_HW, SIZE_HW, 16, 16)
MAPS = PanopticClip(moving_ids(4, 16, SIZE_HW, seed=1), 4)


def video(pipeline: HieraSurgPipeline) -> np.ndarray:
    sampling = Sampling(2, 1.0, 1, 17, make_generator(0))
    return pipeline.make_video(photograph(MAPS.map_FHW[0], 1), MAPS, 1, sampling).astype(int)


@pytest.mark.parametrize("memory", ["fast", "offload", "group-offload"])
def test_every_placement_makes_the_same_video(memory):
    pipeline = tiny_pipeline()
    expected = video(tiny_pipeline())
    prepare(pipeline, CUDA, CLIP, Speed(memory=memory, compile=False))
    assert np.abs(video(pipeline) - expected).mean() < 2
    assert np.abs(video(pipeline) - expected).mean() < 2


def test_a_compiled_pipeline_makes_the_same_video():
    pipeline = tiny_pipeline()
    prepare(pipeline, CUDA, CLIP, Speed(memory="fast", compile=True))
    assert np.abs(video(pipeline) - video(tiny_pipeline())).mean() < 2


def test_the_loop_never_waits_for_the_gpu():
    pipeline = tiny_pipeline()
    prepare(pipeline, CUDA, CLIP, Speed(memory="fast", compile=False))
    sampling = [Sampling(3, 1.0, 1, 17, make_generator(0))]
    condition = torch.zeros(1, 5, 16, 8, 12, device=CUDA)
    words = torch.ones(1, 16, dtype=torch.long, device=CUDA)
    tokens = pipeline.m2v.encode_maps(torch.rand(1, 16, *SIZE_HW, device=CUDA))
    given = {"phase_BF": words, "triplet_BF": words, "map_tokens_BND": tokens}
    pipeline._denoise("m2v", pipeline.m2v, condition, given, given, sampling)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pipeline._denoise("m2v", pipeline.m2v, condition, given, given, sampling)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_some_fused_kernel_runs_the_full_size():
    kernel = fastest_kernel(6146, 30, 64, torch.bfloat16, CUDA, backward=True)
    assert kernel in ("flash4", "cudnn", "flash", "efficient")


@pytest.mark.skipif(not HAS_FLASH4, reason="flash-attn-4 or a card for it is missing")
@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_flash_attention_4_gives_what_attention_is(compiled):
    torch.manual_seed(0)
    # Queries of the last tokens alone, values a view of a wider tensor, as the blocks give them.
    query = torch.randn(1, 700, 4, 64, device=CUDA)[:, 300:].bfloat16()
    key = torch.randn(1, 700, 4, 64, device=CUDA).bfloat16()
    value = torch.randn(1, 700, 3 * 256, device=CUDA).bfloat16().chunk(3, dim=-1)[2].unflatten(-1, (4, 64))
    ours = torch.compile(attend) if compiled else attend
    exact = attend(query.double(), key.double(), value.double(), "math")
    assert (ours(query, key, value, "flash4").double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.skipif(not HAS_FLASH4, reason="flash-attn-4 or a card for it is missing")
def test_flash_attention_4_in_the_place_of_torchs_kernel_gives_the_same_gradients():
    torch.manual_seed(0)
    given = [torch.randn(1, 4096, 4, 64, device=CUDA).bfloat16().requires_grad_() for _ in range(3)]
    weight = torch.randn(1, 4096, 4, 64, device=CUDA)

    def gradients(kernel: str, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = values
        return torch.autograd.grad((attend(query, key, value, kernel).float() * weight).sum(), values)

    exact = gradients("math", *(value.detach().float().requires_grad_() for value in given))
    flash4.take_flashs_place()
    for found, expected in zip(gradients("flash", *given), exact, strict=True):
        assert (found.float() - expected).norm() < 0.01 * expected.norm()


@torch.no_grad()
def test_bias_and_gelu_along_with_the_product_give_what_they_give_apart():
    torch.manual_seed(0)
    block = StackBlock(64, 2, 32, 16, 1e-5).to(CUDA, torch.bfloat16)
    given = [torch.randn(2, count, 64, device=CUDA, dtype=torch.bfloat16) for count in (300, 40)]
    vector = torch.randn(2, 16, device=CUDA, dtype=torch.bfloat16)
    with torch.enable_grad():
        expected = [out.detach().float() for out in block(*given, vector)]
    exact = [out.float() for out in block.float()(*(value.float() for value in given), vector.float())]
    for found, apart, reference in zip(block.bfloat16()(*given, vector), expected, exact, strict=True):
        error = (apart - reference).norm()
        assert error > 0
        assert (found.float() - reference).norm() < 1.2 * error


def test_moments_on_the_host_change_nothing():
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 64, device=CUDA)
    other = torch.nn.Linear(64, 64, device=CUDA)
    other.load_state_dict(plain.state_dict())
    ours = OffloadedAdamW(other.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, fused=True)
    for _ in range(4):
        values = torch.randn(8, 64, device=CUDA)
        for model, optimizer in ((plain, theirs), (other, ours)):
            optimizer.zero_grad()
            model(values).square().mean().backward()
            optimizer.step()
    assert torch.equal(plain.weight, other.weight)
