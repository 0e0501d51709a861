"""Fine-tune a diffusion UNet on images: configuration -> objects -> Trainer.fit. See `python train.py --help`."""

from chrysalis.system.signals import leaving_silently

with leaving_silently():
    from chrysalis.command import command, command_line, values
    from chrysalis.command import start_or_resume as runs
    from chrysalis.command.quick_start import import_libraries


@command("train")
def train(cfg) -> None:
    # 1. Start a run, or continue one
    started = runs.start_time()
    cfg, run_dir, checkpoint = runs.begin(cfg)
    import_libraries(cfg.model.get("pretrained"))
    from lightning import seed_everything

    from chrysalis.command import recipes
    from chrysalis.command.config_tree import instantiate
    from chrysalis.system import compiling, hardware, terminal
    from chrysalis.training import batch_size
    from chrysalis.training.module import TrainingModule, build_denoiser
    from chrysalis.training.preflight import check, plan

    values.require(cfg)
    if checkpoint is not None and (message := runs.nothing_to_do(cfg, run_dir)):
        return terminal.say(message)
    seed_everything(cfg.seed, workers=True, verbose=False)
    # 2. The model becomes a denoiser of the data
    data, model = instantiate(cfg.data), instantiate(cfg.model)
    data.size = data.size or model.size("data.image_size")
    note = model.fit_to_size(data.size)
    kinds = {name: instantiate(node) for name, node in recipes.terms(cfg.condition).items()}
    objective, adapter = instantiate(cfg.objective)(model.prediction), instantiate(cfg.adapter)
    loss = {"weighting": instantiate(cfg.weighting), "noise_offset": cfg.noise_offset}
    denoiser = build_denoiser(model, data, objective, kinds, adapter, dropout=cfg.condition.dropout, **loss)
    # 3. What trains it: optimizer, callbacks, trainer
    module = TrainingModule(denoiser, *map(instantiate, (cfg.optimizer, cfg.lr_schedule)), cfg.condition.lr_multiplier)
    nodes = [*([cfg.profiling] if cfg.profile else []), *cfg.callbacks.values()]
    trainer = instantiate(cfg.trainer)(callbacks=[*map(instantiate, nodes)], logger=instantiate(cfg.logger))
    # 4. What depends on the machine: memory layout, micro-batches, how much is measured
    where = (trainer.strategy.root_device.type, trainer.precision)
    hardware.tune(denoiser.unet, *where, cfg.channels_last, cfg.trainer.get("benchmark"))
    batch_size.fit_batch(data, module, trainer)
    how = {"resumed": checkpoint is not None, "half": cfg.export.half, "compiled": bool(cfg.compile)}
    run = plan.Plan(model, data, module, trainer, run_dir, note, **how, pinned=runs.chosen(cfg, plan.KEYS.values()))
    run.apply({key: n for key, n in (cfg.get("measuring") or {}).items() if key not in runs.typed()})
    if not check.check(run, cfg.preflight):
        return
    compiling.compile_unet(denoiser.unet, cfg.compile, denoiser.reads_captions)
    # 5. Train and export
    about = {"command": command_line(), "settings": runs.flat(cfg), "started": started, "coarser": run.coarser}
    export = instantiate(cfg.export)(**about, origin=model.origin, merge=adapter is None or adapter.merge)
    trainer.callbacks.append(export)
    runs.record(cfg, run_dir, checkpoint, run.settled)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    export.finish(trainer, module)


if __name__ == "__main__":
    train()
