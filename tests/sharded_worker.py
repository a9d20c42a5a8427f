"""One of several processes that train with FSDP2 on CPUs, as `accelerate launch` would start it.

Accelerate shards on accelerators only and falls back to copies on CPUs; the first lines make it
shard here too. Arguments: those of `selfrag`. In its first life process 1 dies after step 3.
"""

import os
import signal
import sys

from accelerate import state
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

plain_init = state.AcceleratorState.__init__


def init(self, *args, **kwargs):
    plain_init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = kwargs.get("fsdp_plugin") or FullyShardedDataParallelPlugin()


state.AcceleratorState.__init__ = init

import torch  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from selfrag.cli.app import main  # noqa: E402
from selfrag.train import checkpoints  # noqa: E402


def after_step(self, args, state, control, **kwargs):
    assert all(isinstance(p, DTensor) for p in kwargs["model"].parameters())
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if state.global_step == 3 and os.environ["RANK"] == "1" and first_life:
        os.kill(os.getpid(), signal.SIGKILL)


checkpoints.HeldOutLosses.on_step_end = after_step
torch.set_num_threads(1)
sys.argv[0] = "selfrag"
main()
