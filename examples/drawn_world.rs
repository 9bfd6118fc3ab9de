//! The drawn world as a dataset, and scores of adapters on scenes that are not in it:
//!
//! ```text
//! cargo run --release -p ipa --example drawn_world -- scenes out/world 2000
//! ipa train --model pocket --variant plus --data out/world/data.jsonl --config docs/training/from-scratch.toml \
//!   --output out/plus-0 --seed 0
//! cargo run --release -p ipa --example drawn_world -- score assets/pocket 100 out/plus-*/ip_adapter.safetensors
//! ```
//!
//! Scores are of pictures drawn from a reference alone, λ = 1; the pixel judges of `ipa-pocket` say what of the
//! reference came through.

#[path = "support/scenes.rs"]
mod scenes;

use std::error::Error;
use std::path::{Path, PathBuf};

use ipa::Pipeline;
use ipa::clip::ClipModel;
use ipa::core::device::{parse_device, parse_kind};
use ipa::train::pretrain::scores::{AdapterScores, score_adapter};

/// Side of the pocket model's pictures.
const SIDE: u32 = 64;
const NUM_STEPS: usize = 25;
/// Pipelines that draw at once, a core each.
const PIPELINES: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["scenes", folder, num] => Ok(scenes::write(Path::new(folder), num.parse()?, SIDE).map(drop)?),
        ["score", model, num, adapters @ ..] if !adapters.is_empty() => score(Path::new(model), num.parse()?, adapters),
        _ => Err("give `scenes FOLDER NUMBER` or `score MODEL NUMBER ADAPTER…`".into()),
    }
}

/// One line an adapter, then mean and range of all.
fn score(model: &Path, num: u64, adapters: &[&str]) -> Result<(), Box<dyn Error>> {
    let options = (parse_device("cpu")?, parse_kind("f32", parse_device("cpu")?)?);
    let clip = ClipModel::load(&model.join("clip"), options)?;
    println!("{:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}", "CLIP-I", "all", "color", "shape", "fill", "style", "ground");
    let mut rows = Vec::new();
    for adapter in adapters.iter().map(PathBuf::from) {
        let pipeline = || Pipeline::load(model, options)?.with_adapter(&adapter, None);
        let mut pipelines = (0..PIPELINES).map(|_| pipeline()).collect::<Result<Vec<_>, _>>()?;
        let scores = numbers(&score_adapter(&mut pipelines, &clip, (num, SIDE, NUM_STEPS), |_| {})?);
        println!("{}  {}", line(&scores), adapter.display());
        rows.push(scores);
    }
    let column = |index: usize| rows.iter().map(move |row: &[f64; 7]| row[index]);
    let of_all = |fold: &dyn Fn(Vec<f64>) -> f64| std::array::from_fn(|index| fold(column(index).collect()));
    println!("{}  mean", line(&of_all(&|values| values.iter().sum::<f64>() / values.len() as f64)));
    println!("{}  lowest", line(&of_all(&|values| values.into_iter().fold(f64::INFINITY, f64::min))));
    println!("{}  highest", line(&of_all(&|values| values.into_iter().fold(f64::NEG_INFINITY, f64::max))));
    Ok(())
}

fn numbers(scores: &AdapterScores) -> [f64; 7] {
    let judged = &scores.image;
    let shares = [judged.color, judged.shape, judged.fill, judged.style, judged.background];
    let all = [scores.clip_i, scores.attributes].into_iter().chain(shares);
    all.map(|interval| interval.mean).collect::<Vec<_>>().try_into().expect("seven numbers")
}

fn line(numbers: &[f64; 7]) -> String {
    numbers.map(|number| format!("{number:7.3}")).join(" ")
}
