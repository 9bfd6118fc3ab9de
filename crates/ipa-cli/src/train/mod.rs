//! `ipa train`

mod flags;
pub(crate) mod parts;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use ipa_adapter::ProjectionConfig;
use ipa_formats::AdapterVariant;
use ipa_train::{Cache, Event, Trainer, check_unused, latest_checkpoint};
use serde_json::json;

pub(crate) use flags::RunArgs;
use parts::Parts;

use crate::{interrupt, output, progress};

/// Train an adapter on captioned pictures
///
/// The reference's recipe: AdamW, the noise-prediction loss, 5 % each of captions, images and both dropped; UNet, VAE and
/// encoders stay as they are. Without `--init-adapter`, keys and values start as copies of the UNet's own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa train --model pocket --init-adapter pocket --data assets/mascot/data.json --output out/mascot\n  \
    ipa train --model pocket --variant plus --data assets/mascot/data.json --output out/plus\n  \
    ipa train --model pocket --variant simple --features fine --data assets/mascot/data.json --output out/simple\n  \
    ipa train --model pocket --variant plus --data assets/mascot/data.json --output out/plus --resume\n  \
    ipa train --config out/plus/config.toml --output out/again --dry-run")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Go on from the latest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Train a few steps, write nothing, and say what the whole run would take
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
}

pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    interrupt::listen()?;
    let json = args.run.json;
    let check_folder = |folder: &Path| match (args.dry_run, args.resume) {
        (true, _) => Ok(()),
        (false, true) => latest_checkpoint(folder).map(drop),
        (false, false) => check_unused(folder),
    };
    let cache = Cell::new(Cache::Memory);
    let parts = Parts::open(&args.run, check_folder, |mut config| {
        cache.set(config.data.cache);
        if args.dry_run {
            config.data.cache = Cache::Memory; // writes nothing
        }
        config
    })?;
    let Parts { models, dataset, config, init, folder } = parts;
    let mut trainer = Trainer::new(&models, &dataset, config, init.as_ref())?;
    warn_of_tokens(&trainer);
    if args.dry_run {
        return forecast(&mut trainer, &folder, (cache.get(), json));
    }
    if args.resume {
        trainer.resume(&folder)?;
    }
    train(&mut trainer, &folder, json)?;
    let file = folder.join(ipa_train::ADAPTER_FILE);
    match json {
        true => output::json_line(&json!({ "file": file }))?,
        false => output::line(format_args!("wrote {}", file.display()))?,
    }
    Ok(())
}

/// Tells of numbers of tokens that other programs do not read.
fn warn_of_tokens(trainer: &Trainer) {
    let config = trainer.adapter().config();
    let (found, usual, programs) = match (config.variant(), config.projection) {
        (AdapterVariant::Base, ProjectionConfig::Classic { num_tokens, .. }) => (num_tokens, 4, "other programs read"),
        (AdapterVariant::Plus, ProjectionConfig::Plus(sizes)) => (sizes.num_tokens, 16, "ComfyUI reads"),
        _ => return,
    };
    if found != usual {
        output::warn(format_args!("{programs} adapters of this variant with {usual} tokens only"));
    }
}

fn train(trainer: &mut Trainer, folder: &Path, json: bool) -> Result<()> {
    let bar = progress::bar(trainer.num_steps(), "training", json);
    bar.set_position(trainer.steps_done());
    bar.reset_eta(); // what was done before a resume took no time of this run
    let mut said = Ok(());
    trainer.run(folder, |event| {
        show(&bar, &event);
        if json && said.is_ok() {
            said = tell(&event);
        }
        if said.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
    })?;
    bar.finish_and_clear();
    Ok(said?)
}

fn show(bar: &ProgressBar, event: &Event) {
    match event {
        Event::Step { progress, monitor } => {
            bar.set_position(progress.step);
            bar.set_message(monitor.message());
        }
        Event::Validating(work) => bar.set_message(format!("validating, {} of {}", work.done, work.total)),
        Event::Validated(result) => {
            let line = format!("step {}: held-out loss {:.4}", result.step, result.loss.unwrap_or(f64::NAN));
            let scores = result.scores.iter().map(|(name, score)| format!(", {name} {score:.3}"));
            bar.println(scores.fold(line, |line, score| line + &score));
        }
    }
}

fn tell(event: &Event) -> std::io::Result<()> {
    match event {
        Event::Step { monitor, .. } => output::json_line(&monitor.status()),
        Event::Validating(_) => Ok(()),
        Event::Validated(result) => output::json_line(&json!({ "validation": result })),
    }
}

/// What the run would take, from a few of its steps.
fn forecast(trainer: &mut Trainer, folder: &Path, (cache, json): (Cache, bool)) -> Result<()> {
    let forecast = trainer.forecast(folder, cache)?;
    match json {
        true => output::json_line(&forecast)?,
        false => output::line(&forecast)?,
    }
    Ok(())
}
