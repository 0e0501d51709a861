"""Draw with a diffusion model: folder + scheduler -> pictures. `python sample.py --help`."""

from chrysalis.command import command


@command("sample")
def sample(cfg) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from chrysalis import folder, hardware
    from chrysalis.data.transforms import checked_size
    from chrysalis.denoiser import Denoiser
    from chrysalis.files import shown
    from chrysalis.objective import choose
    from chrysalis.sampling import drawing
    from chrysalis.terminal import say

    pretrained = cfg.model.pretrained or folder.newest_pipeline()
    scheduler = HydraConfig.get().runtime.choices.scheduler
    image_size = cfg.image_size and checked_size(cfg.image_size, "image_size")
    extra = drawing.scheduler_settings(cfg.scheduler)
    settings = drawing.Settings(str(pretrained), cfg.n, cfg.seed, scheduler, cfg.steps, image_size, extra)
    out = Path(HydraConfig.get().runtime.output_dir)
    drawing.refuse_other_pictures(out, settings)
    model = instantiate(cfg.model, pretrained=pretrained)
    size = settings.image_size or model.size()
    folder.fit_to_size(model, size, "image_size")
    denoiser = Denoiser(model.unet, model.scheduler, choose(model.prediction))
    denoiser.to(hardware.device(cfg.device)).eval()
    drawing.draw(out, denoiser, instantiate(cfg.scheduler)(model.scheduler), settings, size, cfg.batch_size)
    say(f"{settings.n} pictures, grid.png and settings.json are in {shown(out)}")


if __name__ == "__main__":
    sample()
