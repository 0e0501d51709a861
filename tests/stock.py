"""Run scripts with diffusers but without Chrysalis, each in a fork of this process.

What a script loads, diffusers alone can load; forking saves the time of importing diffusers again.
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
    with open("stock.txt", "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(compile(script, "stock", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=output)
            output.flush()
            os._exit(1)
    os._exit(0)


for line in sys.stdin:
    if not (child := os.fork()):
        run(**json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
