"""The same command again with resume=true, on another number of devices."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from chrysalis.command import CONF, resume
from chrysalis.system.errors import UserError


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["name=x", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    cfg.run_dir = "runs/x"
    return cfg


def again(was, cfg):
    before = resume._processes(was)
    resume._change_to(was, cfg, Path("runs/x"))
    resume._keep_joint_batch(was, before)
    return was.data.batch_size, was.trainer.devices


@pytest.fixture
def was():
    return OmegaConf.create(OmegaConf.to_container(composed(), resolve=True))


def test_every_step_keeps_its_images(was):
    for devices, batch_size in ((2, 4), (2, 4), (4, 2), (1, 8), (1, 8)):
        assert again(was, composed(f"trainer.devices={devices}")) == (batch_size, devices)


def test_another_batch_size_is_still_refused(was):
    again(was, composed("trainer.devices=2"))
    with pytest.raises(UserError, match=r"data\.batch_size=16 was 4"):
        again(was, composed("trainer.devices=2", "data.batch_size=16"))
