"""Fine-tune a diffusion UNet on pictures: config -> objects -> Trainer.fit. `python train.py --help`."""

from chrysalis.command import command, command_line, runs


@command("train")
def train(cfg) -> None:
    from hydra.utils import instantiate
    from lightning import seed_everything

    from chrysalis import folder
    from chrysalis.command import recipes
    from chrysalis.conditioning.parts import condition
    from chrysalis.denoiser import Denoiser
    from chrysalis.freezing import freeze
    from chrysalis.module import FineTuning
    from chrysalis.terminal import say

    started = runs.began()
    cfg, run_dir, checkpoint = runs.begin(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)

    data = instantiate(cfg.data)
    model = instantiate(cfg.model)
    if note := folder.fit_to_size(model, data.size):
        say(note)
    parts = {name: instantiate(leaf) for name, leaf in recipes.terms(cfg.condition).items()}
    objective = instantiate(cfg.objective)(model.prediction)
    data.setup()
    model.conditioner = condition(model.unet, model.conditioner, parts, data.pictures, data.source.name)
    if model.conditioner is not None and "label" in model.conditioner.names:
        data.use_labels(model.conditioner.embeddings["label"].names)
    if adapter := instantiate(cfg.adapter):
        adapter.inject(model.unet)
    freeze(model.unet, model.conditioner, model.train)
    denoiser = Denoiser(model.unet, model.trained_for(objective), objective, model.conditioner, cfg.condition.dropout)
    module = FineTuning(denoiser, instantiate(cfg.optimizer), instantiate(cfg.lr_schedule), cfg.condition.new_lr)
    say(model.description())
    say(data.description())

    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    record = {"command": command_line(), "settings": runs.flat(cfg), "started": started, "origin": model.origin}
    record["merge"] = adapter is None or adapter.merge
    callbacks.append(outcome := instantiate(cfg.outcome)(**record))
    trainer = instantiate(cfg.trainer)(callbacks=callbacks, logger=instantiate(cfg.logger))
    runs.record(cfg, run_dir)
    if cfg.compile:
        denoiser.unet.compile()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    outcome.complete(trainer, module)
    say(outcome.summary())


if __name__ == "__main__":
    train()
