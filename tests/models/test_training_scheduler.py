"""Noise schedules that are read from scheduler_config.json."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler
from model_folders import refusal, rewrite

from chrysalis.models import folder, scratch
from chrysalis.sampling import schedulers


def test_predict_epsilon_of_old_configurations_is_translated(model_folder):
    file = model_folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text())
    del settings["prediction_type"]
    for predicts_eps, prediction in ((False, "sample"), (True, "epsilon")):
        file.write_text(json.dumps({**settings, "predict_epsilon": predicts_eps}))
        assert folder.load(str(model_folder)).prediction == prediction
    rewrite(file, predict_epsilon=False, prediction_type="epsilon")
    assert "predict_epsilon=false and prediction_type=epsilon" in refusal(model_folder)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "trained with ScoreSdeVeScheduler, which has no discrete DDPM"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "CogVideoXDDIMScheduler, whose noise levels are not DDPM's"),
        ({"_class_name": "NopeScheduler"}, "trained with NopeScheduler"),
        ({"prediction_type": "flow_prediction"}, "prediction_type=flow_prediction"),
        ({"shift_snr": 3.0}, "has shift_snr=3.0 in scheduler_config.json"),
    ],
)
def test_a_schedule_that_is_not_ddpms_is_refused(model_folder, settings, says):
    rewrite(model_folder / "scheduler" / "scheduler_config.json", **settings)
    assert says in refusal(model_folder)


@pytest.mark.parametrize("cls", [HeunDiscreteScheduler, DDIMScheduler])
def test_betas_left_out_are_those_of_the_schedulers_own_class(model_folder, cls):
    file = model_folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": cls.__name__}))
    own = cls.from_pretrained(model_folder / "scheduler")
    torch.testing.assert_close(folder.load(str(model_folder)).scheduler.alphas_cumprod, own.alphas_cumprod)


def test_the_cosine_schedule_of_a_new_model():
    """The closed form up to its last percent of timesteps; Karras spacing leaves few steps to noise alone."""
    scheduler = scratch.build(16, (8, 16), beta_schedule="squaredcos_cap_v2").scheduler
    angle = (torch.arange(1, 1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * math.pi / 2
    exact = (angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)).square()
    assert torch.allclose(scheduler.alphas_cumprod[:980].double(), exact[:980], atol=1e-5)
    assert 130 < (1 / scheduler.alphas_cumprod[-1] - 1).sqrt() < 150
    for name in ("dpmpp_2m", "deis", "euler"):
        at_noise = []
        for noise in (scheduler, DDPMScheduler(beta_schedule="squaredcos_cap_v2")):
            sampler = schedulers.build(noise, name)
            sampler.set_timesteps(20)
            at_noise.append(int((sampler.timesteps > 900).sum()))
        ours, stock = at_noise
        assert ours <= 10 < 13 <= stock, name
