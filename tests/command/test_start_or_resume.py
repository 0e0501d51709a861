"""The same command again with resume=true, on another number of devices."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from chrysalis.command import CONF, start_or_resume
from chrysalis.system.errors import UserError


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["name=x", "resume=true", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    cfg.run_dir = "runs/x"
    return cfg


@pytest.fixture
def again(tmp_path):
    """again(*overrides) resumes the run with the same command and these overrides, and records it."""
    OmegaConf.save(composed(), tmp_path / "config.yaml", resolve=True)

    def resumed(*overrides):
        cfg = start_or_resume.resumed_config(composed(*overrides), tmp_path)
        OmegaConf.save(cfg, tmp_path / "config.yaml", resolve=True)
        return cfg

    return resumed


def test_every_step_keeps_its_images(again):
    for devices, batch_size in ((2, 8), (2, 8), (4, 4), (1, 16), (1, 16)):
        cfg = again(f"trainer.devices={devices}")
        assert (cfg.data.batch_size, cfg.trainer.devices) == (batch_size, devices)


def test_another_batch_size_is_still_refused(again):
    again("trainer.devices=2")
    with pytest.raises(UserError, match=r"data\.batch_size=32 was 8"):
        again("trainer.devices=2", "data.batch_size=32")


def test_a_moved_run_writes_where_it_is_now(again, tmp_path):
    cfg = again()
    assert cfg.run_dir == cfg.callbacks.checkpoint.run_dir == cfg.export.run_dir == str(tmp_path)
