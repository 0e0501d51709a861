"""A process that has imported diffusers and cannot import Chrysalis; every script runs in a fork of it.

What a test loads there, diffusers alone can load, and nobody waits again for the import.
"""

import contextlib
import json
import os
import sys
import traceback

import torch
from diffusers import DDPMPipeline, DiffusionPipeline  # noqa: F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def run(script: str, folder: str, arguments: list[str]) -> None:
    sys.modules["chrysalis"] = None
    os.chdir(folder)
    sys.argv = ["stock", *arguments]
    torch.set_num_threads(1)
    with open("stock.txt", "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(compile(script, "stock", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=said)
            said.flush()
            os._exit(1)
    os._exit(0)


for line in sys.stdin:
    if not (child := os.fork()):
        run(**json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
