"""A loss or gradient that is not finite: named before the update, which on_nonfinite=skip skips."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, results, tiny_unet
from diffusers import DDPMScheduler

from chrysalis.data import pixels
from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective

RUN = [*TINY_MODEL, "data.n=30", *TINY_RUN, "trainer.precision=32-true", "trainer.accumulate_grad_batches=2"]
RUN += ["trainer.max_steps=6", "name=a", "callbacks.checkpoint.every_n_train_steps=1"]


@pytest.fixture
def bad_image(monkeypatch):
    """One image of the set becomes NaN on its way into the network; returns its batch row."""
    plain, bad = Denoiser.loss_at, {}

    def loss_at(self, x0, t, eps, cond=None):
        if "sum" not in bad and self.training:
            bad["sum"] = x0[-1].sum().item()  # the last image of the first micro-batch
        if self.training:
            x0 = torch.where((x0.sum(dim=(1, 2, 3), keepdim=True) == bad["sum"]), float("nan"), x0)
        return plain(self, x0, t, eps, cond)

    monkeypatch.setattr(Denoiser, "loss_at", loss_at)
    return bad


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.usefixtures("bad_image")
def test_a_run_stops_before_the_update_and_names_the_image(run, tmp_path, capfd):
    assert run("train", *RUN) == 2
    err = capfd.readouterr().err
    assert "step 1: the loss is not finite for " in err
    assert err.count(" at t=") == 1
    assert "Traceback" not in err
    (file,) = (tmp_path / "runs" / "a" / "nonfinite").iterdir()
    assert file.name == "step_000001.pt"
    kept = torch.load(file, weights_only=True)
    assert all(w.isfinite().all() for w in kept["denoiser"].values())
    assert [len(b["image"]) for b in kept["batches"]] == [4, 4]


@pytest.mark.usefixtures("bad_image")
def test_what_is_kept_repeats_the_step(run, tmp_path):
    """As docs/reliability.md says: the weights and the images, and the loss is again not a number."""
    assert run("train", *RUN) == 2
    kept = torch.load(tmp_path / "runs" / "a" / "nonfinite" / "step_000001.pt", weights_only=True)
    unet = tiny_unet()
    denoiser = Denoiser(unet, DDPMScheduler(), objective("epsilon"))
    wanted = {name: w.shape for name, w in denoiser.state_dict().items()}
    if wanted == {name: w.shape for name, w in kept["denoiser"].items()}:
        denoiser.load_state_dict(kept["denoiser"])
    bad = [denoiser.train().loss(Batch(**b)).per_sample.isfinite() for b in kept["batches"]]
    assert torch.cat(bad).tolist().count(False) == 1


@pytest.mark.usefixtures("bad_image")
def test_skipping_skips_the_update_alone(run, tmp_path, capfd):
    """Each epoch has the image once: two of six steps (three an epoch) change nothing, and weights stay finite."""
    assert run("train", *RUN, "on_nonfinite=skip") == 0
    err = capfd.readouterr().err
    assert err.count("The update is skipped") == 2
    state = weights(tmp_path / "runs" / "a")
    assert all(w.isfinite().all() for w in state["state_dict"].values())
    moments = state["optimizer_states"][0]["state"]
    assert {int(m["step"]) for m in moments.values()} == {4}
    assert results(tmp_path / "runs" / "a")["steps"] == 6
    assert 0 < results(tmp_path / "runs" / "a")["final_train_loss"] < 10


@pytest.mark.usefixtures("bad_image")
def test_skipping_has_an_end(run, tmp_path, capfd):
    assert run("train", *RUN, "on_nonfinite=skip", "callbacks.nonfinite.max_skipped_steps=1") == 2
    assert "max_skipped_steps=4" in capfd.readouterr().err
    assert weights(tmp_path / "runs" / "a")["global_step"] >= 3


def test_gradients_alone(run, tmp_path, capfd, monkeypatch):
    """A finite loss with an infinite gradient: all images of the step are named."""
    plain = pixels.to_signed

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    forward = Denoiser.forward

    def steep(self, *given, **named):
        predicted = forward(self, *given, **named)
        return replace(predicted, out=Steep.apply(predicted.out))

    monkeypatch.setattr(Denoiser, "forward", steep)
    assert plain is pixels.to_signed
    assert run("train", *RUN) == 2
    err = capfd.readouterr().err
    assert "their gradient is not" in err
    assert err.count(" at t=") == 8


def test_an_unknown_action_is_refused(run, capfd):
    assert run("train", *RUN, "on_nonfinite=ignore") == 2
    assert "on_nonfinite" in capfd.readouterr().err
