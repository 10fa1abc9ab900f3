"""How the training state of a run is sharded and computed."""

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpot_scale.config.base import NO_BOOL, Section
from dpot_scale.config.strategy import Strategy, read_strategy

STRATEGY = "zero3_bf16"  # where a run names none
ACCELERATOR = "DS_ACCELERATOR"  # the variable that chooses what DeepSpeed computes on
FORMER = "nvme_path"  # a field of earlier versions


class EngineConfig(Section):
    """How the training state is sharded and computed."""

    kind: Literal["deepspeed", "fairscale"] = "deepspeed"
    """Which library trains. fairscale: OSS and DistributedDataParallel, in fp32; an independent
    second opinion on what DeepSpeed computes."""
    deepspeed: Strategy = Field(
        default_factory=partial(read_strategy, STRATEGY),
        json_schema_extra={"default": STRATEGY},
    )
    """How to shard: the name of a file in `deepspeed_configs/`, the path of a JSON file, or its
    name and content."""
    activation_checkpointing: Literal["none", "full", "every_k", "selective"] = "none"
    """Which blocks recompute their activations in the backward pass instead of keeping them. full:
    all. every_k: one in `recompute_every`. selective: all, except for their MLP, which costs the
    most to repeat."""
    recompute_every: Annotated[int, Field(ge=2), NO_BOOL] = 2
    """One block in so many recomputes its activations; `every_k` only."""
    recompute_backend: Literal["torch", "fairscale"] = "torch"
    """Which library recomputes activations."""
    recompute_offload: bool = False
    """Whether the kept inputs of blocks wait in host memory; `fairscale` only."""
    spectral_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the Fourier part, unless the parameters have a higher one. bfloat16 changes
    held-out errors by less than seeds do (benchmarks/spectral_precision.py)."""
    compile: bool = False
    """Whether torch.compile compiles the blocks."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_configs(cls, fields: object) -> object:
        """Leave out the folder for state on a disk: old runs and sweeps can be read."""
        if isinstance(fields, dict):
            return {key: value for key, value in fields.items() if key != FORMER}
        return fields

    @model_validator(mode="after")
    def _fairscale_can_do_it(self) -> Self:
        if self.kind == "deepspeed":
            return self
        if (self.deepspeed.stage, self.deepspeed.dtype) != (0, "fp32"):
            raise ValueError(
                "kind=fairscale trains in fp32 and shards nothing but the state of the optimizer, "
                f"and {self.deepspeed.name} asks for more: add engine.deepspeed=zero0_fp32"
            )
        if self.compile:
            raise ValueError("kind=fairscale does not compile: set engine.compile=false")
        if self.recompute_backend == "fairscale":
            raise ValueError(
                "kind=fairscale recomputes with torch alone: set engine.recompute_backend=torch"
            )
        return self

    @model_validator(mode="after")
    def _recompute_is_possible(self) -> Self:
        if self.recompute_backend == "torch":
            if self.recompute_offload:
                raise ValueError(
                    "recompute_offload=true needs recompute_backend=fairscale: torch keeps what it "
                    "keeps on the device"
                )
            return self
        if self.activation_checkpointing == "selective":
            raise ValueError(
                "activation_checkpointing=selective needs recompute_backend=torch: fairscale "
                "recomputes whole blocks"
            )
        if self.compile:
            raise ValueError(
                "compile=true needs recompute_backend=torch: fairscale replaces the forward of a "
                "block by one that cannot be compiled"
            )
        return self
