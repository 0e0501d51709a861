"""Draw with a diffusion model: folder + scheduler + guidance + task -> images. `python sample.py --help`."""

from chrysalis.system.signals import leaving_silently

with leaving_silently():
    from chrysalis.command import command


@command("sample")
def sample(cfg) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from chrysalis.command import recipes, values
    from chrysalis.command.config_tree import instantiate
    from chrysalis.conditions.kinds import KINDS
    from chrysalis.conditions.request import Request
    from chrysalis.data.transforms import checked_size
    from chrysalis.denoiser import Denoiser
    from chrysalis.diffusion.objective import choose
    from chrysalis.models import location
    from chrysalis.sampling import devices, generation
    from chrysalis.sampling import precision as precisions
    from chrysalis.sampling.guidance.guided import Guided
    from chrysalis.sampling.schedulers import Timetable
    from chrysalis.sampling.tasks import Canvas
    from chrysalis.sampling.trajectory import Trajectory
    from chrysalis.system import hardware
    from chrysalis.system.files import shown
    from chrysalis.system.terminal import say, stage, warn

    values.require(cfg)
    out = Path(HydraConfig.get().runtime.output_dir)
    if (folders := cfg.task.get("compare")) is not None:
        from chrysalis.evaluation.task import compare

        return compare(folders, out)
    if not (pretrained := cfg.model.pretrained):
        pretrained = location.newest_pipeline()
        what = "the bundled model" if pretrained == location.BUNDLED else "of the newest run"
        say(f"model: {pretrained}, {what}; model.pretrained=FOLDER takes another")
    record = recipes.record(cfg, pretrained)
    recipes.tell_changes(record)
    precision = precisions.resolve(cfg.trainer.precision, cfg.trainer.accelerator)
    record = precisions.recorded(record, precision)
    generation.require_counts(record["settings"])
    animation = instantiate(cfg.animation)
    generation.refuse_other_images(out, record)
    with stage("loading the model"):
        model = instantiate(cfg.model, pretrained=pretrained)
    size = model.size() if cfg.image_size is None else checked_size(cfg.image_size, "image_size")
    if new_size := model.fit_to_size(size, "image_size", "sampled"):
        warn(f"{new_size[:-1]}, where it may repeat or cut its subject: fine-tune it at that size (data.image_size).")
    asked = Request(model.conditioner, recipes.plain({name: cfg[name] for name in cfg if name in KINDS}), pretrained)
    task = recipes.built(cfg.task, model)
    terms = {name: recipes.built(term, model) for name, term in recipes.terms(cfg.guidance).items()}
    scheduler = instantiate(cfg.scheduler)(model.scheduler, **task.scheduler_settings)

    hardware.keep_memory(hardware.accelerator(cfg.trainer.accelerator))
    share, device = devices.launch(**cfg.trainer)
    denoiser = Denoiser(model.unet, model.scheduler, choose(model.prediction), model.conditioner).to(device).eval()
    denoiser.requires_grad_(False)  # guided or not: torch rounds some layers otherwise if their weights take gradients
    precisions.apply(denoiser, terms, precision, cfg.compile)
    guided = Guided(denoiser, terms).to(device) if terms else denoiser
    timetable = Timetable(scheduler, cfg.steps, device)
    for told in filter(None, (timetable.warning(), asked.missing())):
        warn(told)
    canvas = Canvas(guided, denoiser, timetable, size, cfg.guidance.recurrence, asked)
    way = Trajectory(animation, cfg.trajectory_columns) if cfg.trajectory else None
    written = generation.draw(out, canvas, task, record, cfg.batch_size, animation, way, share)
    say(f"{', '.join(written)} and settings.json are in {shown(out)}")


if __name__ == "__main__":
    sample()
