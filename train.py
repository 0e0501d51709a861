"""Fine-tune a diffusion UNet on images: config -> objects -> Trainer.fit. `python train.py --help`."""

from chrysalis.system.signals import leaving_silently

with leaving_silently():
    from chrysalis.command import command, command_line, runs


@command("train")
def train(cfg) -> None:

    from chrysalis.command.quick_start import import_libraries

    import_libraries()
    from lightning import seed_everything

    from chrysalis.command import recipes, values
    from chrysalis.command.config_tree import instantiate
    from chrysalis.conditions.build import build_conditioner
    from chrysalis.denoiser import Denoiser
    from chrysalis.models.freezing import freeze
    from chrysalis.system import hardware
    from chrysalis.system.compiling import compile_unet
    from chrysalis.system.terminal import say
    from chrysalis.training.batch_size import fit_batch
    from chrysalis.training.callbacks.clock import of
    from chrysalis.training.callbacks.stopping import Stopping
    from chrysalis.training.module import FineTuning
    from chrysalis.training.preflight.measuring import KEYS
    from chrysalis.training.preflight.plan import Agreed, Plan
    from chrysalis.training.preflight.table import goes_on

    started = runs.start_time()
    cfg, run_dir, checkpoint = runs.begin(cfg)
    values.require(cfg)
    if checkpoint is not None and runs.is_finished(cfg, run_dir):
        return say(runs.nothing_to_do(cfg, run_dir))
    seed_everything(cfg.seed, workers=True, verbose=False)

    data = instantiate(cfg.data)
    model = instantiate(cfg.model)
    new_size = model.fit_to_size(data.size)
    kinds = {name: instantiate(leaf) for name, leaf in recipes.terms(cfg.condition).items()}
    objective = instantiate(cfg.objective)(model.prediction)
    data.setup()
    model.conditioner = build_conditioner(model.unet, model.conditioner, kinds, data)
    if adapter := instantiate(cfg.adapter):
        adapter.inject(model.unet)
    freeze(model.unet, model.conditioner, model.train)
    model.register_objective(objective)
    loss = {"weighting": instantiate(cfg.weighting), "noise_offset": cfg.noise_offset}
    denoiser = Denoiser(model.unet, model.scheduler, objective, model.conditioner, cfg.condition.dropout, **loss)
    module = FineTuning(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule), cfg.condition.lr_multiplier)

    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    if cfg.profile:
        callbacks.insert(0, instantiate(cfg.profiling))
    record = {"command": command_line(), "settings": runs.flat(cfg), "started": started, "origin": model.origin}
    record["merge"] = adapter is None or adapter.merge
    callbacks.append(export := instantiate(cfg.export)(**record))
    trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=instantiate(cfg.logger))
    hardware.tune(denoiser.unet, trainer.strategy.root_device.type, trainer.precision, cfg.channels_last)
    if note := fit_batch(data, module, trainer):
        say(note)
        cfg.data.batch_size, cfg.trainer.accumulate_grad_batches = data.batch_size, trainer.accumulate_grad_batches
    how = {"resumed": checkpoint is not None, "half": cfg.export.half, "asked": runs.chosen(cfg, KEYS.values())}
    plan = Plan(model, data, module, trainer, run_dir, new_size, **how)
    plan.apply({key: n for key, n in (cfg.get("measuring") or {}).items() if key not in runs.typed()})
    if not goes_on(cfg.preflight, plan):
        return
    trainer.callbacks.append(Agreed(plan))
    export.coarser = plan.coarser
    compile_unet(denoiser.unet, cfg.compile, denoiser.reads_captions)
    runs.record(cfg, run_dir, checkpoint, plan.coarser)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    export.complete(trainer, module)
    say(export.summary())
    of(trainer, Stopping).leave()


if __name__ == "__main__":
    train()
