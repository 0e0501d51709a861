"""Sample from a diffusion model: folder + scheduler + guidance + task -> images. See `python sample.py --help`."""

from chrysalis.system.signals import leaving_silently

with leaving_silently():
    from chrysalis.command import command


@command("sample")
def sample(cfg) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from chrysalis.command import recipes, values
    from chrysalis.command.config_tree import instantiate
    from chrysalis.data.transforms import height_and_width
    from chrysalis.sampling import generation, output, precision, tasks, timesteps
    from chrysalis.sampling.guidance import guided, model_pairs
    from chrysalis.system.files import shown
    from chrysalis.system.terminal import say, stage, warn

    # 1. The record of what follows; a folder of other images is refused before the model is loaded
    values.require(cfg)
    out = Path(HydraConfig.get().runtime.output_dir)
    pretrained = recipes.chosen_model(cfg)
    images = output.OutputFolder(out, recipes.sampling_record(cfg, pretrained), instantiate(cfg.animation))
    # 2. The model, at the size of the images
    with stage("loading the model"):
        model = instantiate(cfg.model, pretrained=pretrained)
    size = model.size() if cfg.image_size is None else height_and_width(cfg.image_size)
    if new_size := model.fit_to_size(size, "image_size", "sampled"):
        warn(f"{new_size[:-1]}, where it may repeat or cut its subject: fine-tune it at that size (data.image_size).")
    # 3. What is generated: a task's images, for each requested condition
    task, request = recipes.built(cfg.task, model), recipes.request(cfg, model.conditioner, pretrained)
    batches = tasks.split_into_batches(task.all_specs(cfg.seed, cfg.n, request), cfg.batch_size)
    # 4. What it is generated with: denoiser, guidance and scheduler, on this process's device
    terms = {name: recipes.built(term, model) for name, term in recipes.terms(cfg.guidance).items()}
    scheduler = instantiate(cfg.scheduler)(model.scheduler, **task.scheduler_settings)
    processes, device = instantiate(cfg.trainer)()
    denoiser = model_pairs.denoiser_of(model).to(device)
    precision.apply(denoiser, terms, images.record.precision, cfg.compile)
    denoiser = guided.Guided(denoiser, terms).to(device) if terms else denoiser
    schedule = timesteps.TimestepSchedule(scheduler, cfg.steps, device)
    sampler = tasks.Sampler(denoiser, schedule, size, cfg.guidance.recurrence, request)
    # 5. Generate, and make the figures
    recorder = output.TrajectoryRecorder(cfg.trajectory_columns, cfg.animation.frames)
    job = generation.Generation(sampler, task, images, recorder if cfg.trajectory else None, processes)
    say(f"{', '.join(job.run(batches))} and settings.json are in {shown(out)}")


if __name__ == "__main__":
    sample()
