"""Private names of other packages that this project uses: a version that lacks one is named here first.

A package has its upper bound in pyproject.toml; whoever raises it runs this and the tests of the files below.
"""

import ast
import importlib
from importlib.metadata import version
from pathlib import Path

import pytest

import hierasurg_core

CORE = Path(hierasurg_core.__file__).parent
NAMES = [
    # package, module, name in it, file of hierasurg_core that uses it
    ("accelerate", "accelerate.state", "AcceleratorState._reset_state", "training/setup.py"),
    ("diffusers", "diffusers.hooks._helpers", "TransformerBlockMetadata", "models/backbone.py"),
    ("diffusers", "diffusers.hooks._helpers", "TransformerBlockRegistry", "models/backbone.py"),
    ("diffusers", "diffusers", "CacheMixin._reset_stateful_cache", "generation/pipelines.py"),
    ("sam2", "sam2.modeling.sam2_base", "SAM2Base._forward_sam_heads", "labeling/propagation.py"),
    ("sam2", "sam2.modeling.sam2_base", "SAM2Base._use_mask_as_output", "labeling/propagation.py"),
    ("sam2", "sam2.modeling.sam2_base", "SAM2Base._use_multimask", "labeling/propagation.py"),
    ("sam2", "sam2.modeling.memory_attention", "MemoryAttentionLayer._forward_sa", "labeling/propagation.py"),
    ("sam2", "sam2.modeling.memory_attention", "MemoryAttentionLayer._forward_ca", "labeling/propagation.py"),
    (
        *("sam2", "sam2.modeling.sam.mask_decoder", "MaskDecoder._dynamic_multimask_via_stability"),
        "labeling/decoding.py",
    ),
    ("torch", "torch.distributed.distributed_c10d", "_get_default_store", "runtime.py"),
    ("torch", "torch.nn.parallel", "DistributedDataParallel._get_ddp_logging_data", "training/trainer.py"),
    ("torch", "torch", "_foreach_lerp_", "training/ema.py"),
    ("torch", "torch", "_foreach_lerp", "training/muon.py"),
    ("torch", "torch", "_foreach_mul_", "training/muon.py"),
    ("torch", "torch", "_foreach_add_", "training/muon.py"),
    ("torch", "torch", "_addmm_activation", "models/block.py"),
    ("torch", "torch", "_scaled_mm", "models/quantised.py"),
    ("torch", "torch", "_int_mm", "models/quantised.py"),
]


@pytest.mark.parametrize(("package", "module", "name", "user"), NAMES, ids=[name for _, _, name, _ in NAMES])
def test_the_installed_version_has_it(package: str, module: str, name: str, user: str):
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{package} {version(package)} has no {module}.{name}, which {user} needs: {error}")


@pytest.mark.parametrize("user", sorted({user for *_, user in NAMES}))
def test_the_table_names_what_is_used(user: str):
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse((CORE / user).read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.alias))
    }
    wanted = {name.split(".")[-1] for _, _, name, file in NAMES if file == user}
    assert wanted <= used
