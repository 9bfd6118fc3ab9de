//! `ipa tune`

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, builder::TypedValueParser as _};
use ipa_train::{Metric, Search, TrainError, Trial, TuneEvent, TuneSettings, Tuned};

use crate::interrupt::Interrupted;
use crate::train::RunArgs;
use crate::train::parts::Parts;
use crate::{interrupt, output, progress};

/// Search for settings that do best on held-out rows
///
/// Many short runs, of which the best third goes on three times as long, until one is left (successive halving). Learning
/// rate and drop rates are drawn around the given ones; steps follow from the rounds; at the end several strengths λ of
/// the best are scored. A fifth of the rows is held out unless `--held-out` says otherwise. An ended search goes on when it
/// is started again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    ipa tune --model pocket --init-adapter pocket --data rabbits/data.json --output out/tune --minutes 20\n  \
    ipa train --config out/tune/best.toml --output out/rabbit")]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    run: RunArgs,
    /// How long to look
    #[arg(long, value_name = "MIN", default_value = "30", value_parser = minutes)]
    minutes: Duration,
    /// How many settings to begin with
    #[arg(long, value_name = "N", default_value = "9", value_parser = PossibleValuesParser::new(["3", "9", "27"])
        .map(|number| number.parse::<u64>().expect("one of the numbers")))]
    candidates: u64,
}

pub(crate) fn run(args: &TuneArgs) -> Result<()> {
    interrupt::listen()?;
    let json = args.run.json;
    let Parts { models, dataset, config, init, folder } = Parts::open(&args.run, |_| Ok(()), Search::holding_out)?;
    let seed = config.seed;
    let search = Search { models: &models, dataset: &dataset, base: config, init: init.as_ref(), folder: &folder };
    let bar = progress::bar(0, "tuning", json);
    let settings = TuneSettings { time: args.minutes, candidates: args.candidates, seed };
    let mut said = Ok(());
    let tuned = search.run(settings, |event| {
        match event {
            TuneEvent::Step { candidate, step, steps } => {
                bar.set_length(steps);
                bar.set_position(step);
                bar.set_message(format!("candidate {candidate}"));
            }
            TuneEvent::Judging { candidate } => bar.set_message(format!("candidate {candidate}, judged")),
            TuneEvent::Trial(trial) if json => said = output::json_line(trial),
            TuneEvent::Trial(trial) => bar.println(line(trial)),
        }
        if said.is_err() { ControlFlow::Break(()) } else { interrupt::flow() }
    });
    bar.finish_and_clear();
    said?;
    let tuned = tuned.map_err(|error| match error {
        TrainError::Interrupted { .. } => Interrupted("the same command goes on".to_owned()).into(),
        error => anyhow::Error::from(error),
    })?;
    match json {
        true => Ok(output::json_line(&tuned)?),
        false => tell(&tuned),
    }
}

/// A time that a search can have.
fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "give a number of minutes, such as 20".to_owned())?;
    match (0.0..=1e6).contains(&minutes) {
        true => Ok(Duration::from_secs_f64(minutes * 60.0)),
        false => Err("choose 0 to 1000000 minutes".to_owned()),
    }
}

fn line(trial: &Trial) -> String {
    let Trial { candidate, steps, learning_rate, text_drop, image_drop, value } = trial;
    let value = value.map_or_else(|| "no number".to_owned(), |value| format!("{value:.5}"));
    format!("{candidate:>9} {steps:>6} {learning_rate:>13.1e} {text_drop:>9} {image_drop:>10} {value:>10}")
}

/// The table, best first among those with most steps.
fn tell(tuned: &Tuned) -> Result<()> {
    let metric = match tuned.metric {
        Metric::Loss => "loss",
        Metric::ClipI => "CLIP-I",
        Metric::ClipT => "CLIP-T",
    };
    output::line(format_args!(
        "{:>9} {:>6} {:>13} {:>9} {:>10} {metric:>10}",
        "candidate", "steps", "learning_rate", "text_drop", "image_drop"
    ))?;
    tuned.trials.iter().try_for_each(|trial| output::line(line(trial)))?;
    output::line(format_args!("best: candidate {}, in {}", tuned.best.candidate, tuned.config.display()))?;
    for strength in &tuned.strengths {
        let scores = strength.scores.iter().map(|(name, score)| format!("  {name} {score:.3}"));
        output::line(format_args!("λ {:.2}{}", strength.scale, scores.collect::<String>()))?;
    }
    match tuned.is_cut_short {
        true => Ok(output::line("time ran out before one was left: the same command goes on")?),
        false => Ok(()),
    }
}
